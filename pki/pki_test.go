package pki

import (
	"regexp"
	"testing"
)

func TestStateKey(t *testing.T) {
	tests := []struct {
		cluster string
		mount   Mount
		want    string
	}{
		{"1b7c", Mount{Path: "pki", UUID: "2D4E-55"}, "tidy-1b7c-2d4e-55"},
		{"a/b_c", Mount{Path: "pki", UUID: "x.y"}, "tidy-a-b-c-x-y"},
		{"c", Mount{Namespace: "ns", Path: "team/pki"}, ""},
	}
	safe := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	for _, tt := range tests {
		got := tt.mount.StateKey("tidy", tt.cluster)
		if !safe.MatchString(got) || tt.want != "" && got != tt.want {
			t.Errorf("StateKey(%q) of %+v = %q, want %q", tt.cluster, tt.mount, got, tt.want)
		}
	}
	if (Mount{Path: "a"}).StateKey("tidy", "c") == (Mount{Path: "b"}).StateKey("tidy", "c") {
		t.Error("two mounts without UUID share a key")
	}
}
