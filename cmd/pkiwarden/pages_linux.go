package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetPages lets go of the program's own pages in memory, code and constants
// alike: most were needed to start and never again (thousands of API types are
// registered). Those that are needed come back at once, from the kernel's cache of
// the file, which others on the node share. It is done only to parts of the file
// that are mapped read-only and of which no page was changed (Anonymous
// and Swap in /proc/self/smaps, proc(5)), so that nothing can be lost (madvise(2),
// MADV_DONTNEED).
func forgetPages() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	var from, to uintptr // of the part at hand; 0: it is to stay
	changed := false     // a page of it was
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			changed = false
			if from, to = 0, 0; len(fields) == 6 && fields[5] == self && (fields[1] == "r-xp" || fields[1] == "r--p") {
				from, to = span(fields[0])
			}
		case len(fields) == 3 && (fields[0] == "Anonymous:" || fields[0] == "Swap:"):
			changed = changed || fields[1] != "0"
		case len(fields) > 0 && fields[0] == "VmFlags:" && from != 0 && !changed: // the last line of each part
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return fmt.Errorf("letting go of pages: %w", errno)
			}
		}
	}
	return lines.Err()
}

func span(text string) (from, to uintptr) {
	first, last, _ := strings.Cut(text, "-")
	a, err := strconv.ParseUint(first, 16, 64)
	b, err2 := strconv.ParseUint(last, 16, 64)
	if err != nil || err2 != nil || b < a {
		return 0, 0
	}
	return uintptr(a), uintptr(b)
}
