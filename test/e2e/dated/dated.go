// Package dated keeps reports of measurements in a folder, as Markdown, one for
// each day.
package dated

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Write writes a report into the folder, named by its day. A partial one is
// named so, and does not count as a result.
func Write(folder, report string, at time.Time, partial bool) (file string, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("writing the results: %w", err)
	}
	name := at.UTC().Format(time.DateOnly)
	if partial {
		name += "-partial"
	}
	file = filepath.Join(folder, name+".md")
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		return "", fmt.Errorf("writing the results: %w", err)
	}
	return file, nil
}

// Report is one that was read.
type Report struct {
	Day        time.Time
	File, Text string
}

// Newest reads the last results in the folder. It fails with [fs.ErrNotExist]
// where there are none, and where the last one says that it is partial: older
// ones do not count then.
func Newest(folder string) (Report, error) {
	var r Report
	files, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil {
		return r, err
	}
	for _, file := range files {
		day, err := time.Parse(time.DateOnly+".md", filepath.Base(file))
		if err == nil && day.After(r.Day) {
			r.Day, r.File = day, file
		}
	}
	if r.File == "" {
		return r, fmt.Errorf("finding results in %s: %w", folder, fs.ErrNotExist)
	}
	text, err := os.ReadFile(r.File)
	if err != nil {
		return r, fmt.Errorf("reading the results: %w", err)
	}
	r.Text = string(text)
	if strings.Contains(r.Text, "**Partial") {
		return r, fmt.Errorf("reading the results %s: they are partial", r.File)
	}
	return r, nil
}
