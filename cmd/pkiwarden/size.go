package main

import (
	"strconv"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// sizeFlag is a flag for a number of bytes, written as in the configuration:
// 524288, 512KiB or 256MiB. What is below 1 is for the command to refuse.
type sizeFlag struct{ bytes *int64 }

func (f sizeFlag) String() string {
	if f.bytes == nil {
		return "0"
	}
	return strconv.FormatInt(*f.bytes, 10)
}

func (sizeFlag) Type() string { return "N" }

func (f sizeFlag) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		n, err = config.ParseSize(text)
	}
	if err == nil {
		*f.bytes = n
	}
	return err
}
