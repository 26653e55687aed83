package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestForgetPages: the pages of the program leave, what was written stays, and
// the program goes on.
func TestForgetPages(t *testing.T) {
	resident := func() int {
		t.Helper()
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`RssFile:\s+([0-9]+) kB`).FindSubmatch(status)
		if found == nil {
			t.Fatalf("no RssFile in\n%s", status)
		}
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	writtenPages = "changed"
	before := resident()
	for range 3 {
		if err := forgetPages(); err != nil {
			t.Fatal(err)
		}
	}
	if after := resident(); after > before*3/4 {
		t.Errorf("%d kB of the program's pages before, %d after", before, after)
	}
	if writtenPages != "changed" || len(newRootCmd(&app{}).Commands()) == 0 {
		t.Error("something was lost")
	}
}

var writtenPages = "as it began"
