// Command build makes every server program of the end-to-end tests that is
// not yet on this machine, and says where each one is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	names := servers.Names()
	if len(os.Args) > 1 {
		names = os.Args[1:]
	}
	paths, err := servers.Find(ctx, servers.Options{Progress: os.Stderr}, names...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	for _, name := range names {
		fmt.Printf("%-24s %s\n", name, paths[name])
	}
	return 0
}
