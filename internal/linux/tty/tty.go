// Package tty tells terminals from other files.
package tty

import (
	"os"

	"golang.org/x/sys/unix"
)

// Is says whether f is a terminal, with a person at it (isatty(3)).
func Is(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
