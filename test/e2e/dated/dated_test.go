package dated

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The newest whole report of a folder is read back; what is partial, or is named
// by no day, does not count.
func TestNewest(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "results")
	write := func(text string, day int, partial bool, name string) {
		t.Helper()
		// One o'clock at night in the east is still the day before.
		at := time.Date(2026, 11, day+1, 1, 0, 0, 0, time.FixedZone("east", 2*60*60))
		file, err := Write(folder, text, at, partial)
		if err != nil || file != filepath.Join(folder, name) {
			t.Fatalf("%s, %v", file, err)
		}
	}
	if _, err := Newest(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	write("seven", 7, true, "2026-11-07-partial.md")
	if _, err := Newest(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing whole: %v", err)
	}
	write("five", 5, false, "2026-11-05.md")
	write("six", 6, false, "2026-11-06.md")
	write("four", 4, false, "2026-11-04.md")
	if err := os.WriteFile(filepath.Join(folder, "notes.md"), []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Newest(folder)
	want := Report{Day: time.Date(2026, 11, 6, 0, 0, 0, 0, time.UTC), File: filepath.Join(folder, "2026-11-06.md"), Text: "six"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	write("**Partial: interrupted.**", 8, false, "2026-11-08.md")
	if _, err := Newest(folder); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a report that says it is partial: %v", err)
	}
}
