package kube

import (
	"context"
	"log/slog"
	"sync"

	"k8s.io/klog/v2"
)

var bridgeOnce sync.Once

// BridgeLog sends what client-go logs to log, once per process; later calls do
// nothing. It comes before the first use of a client, since klog does not guard
// its logger. Its notices are logged at level debug, its warnings and errors as
// they are, and its verbose output never: from V(6) on that holds requests,
// headers and bodies.
func BridgeLog(log *slog.Logger) {
	bridgeOnce.Do(func() {
		klog.SetSlogLogger(slog.New(bridge{log.With("component", "client-go").Handler()}))
	})
}

type bridge struct{ slog.Handler }

// Enabled drops klog's V(1) and above, which arrive as levels below Info.
func (b bridge) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo && b.Handler.Enabled(ctx, demoted(level))
}

func (b bridge) Handle(ctx context.Context, r slog.Record) error {
	r.Level = demoted(r.Level)
	return b.Handler.Handle(ctx, r)
}

func (b bridge) WithAttrs(attrs []slog.Attr) slog.Handler { return bridge{b.Handler.WithAttrs(attrs)} }
func (b bridge) WithGroup(name string) slog.Handler       { return bridge{b.Handler.WithGroup(name)} }

func demoted(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return slog.LevelDebug
	}
	return level
}
