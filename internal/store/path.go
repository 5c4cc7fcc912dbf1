package store

import (
	"strings"

	"brane/internal/fault"
)

// CheckPath returns nil for the canonical path of a record, else a
// fault.Invalid or fault.Limit which names the fault. There is one spelling of
// each path, so nothing is ever cleaned or folded.
func CheckPath(path string) error {
	if path == "/" {
		return fault.New(fault.Invalid, "check path", path, "the root is not a record")
	}
	return checkPrefix(path)
}

// checkPrefix is CheckPath that also takes "/", which stands for the whole tree.
func checkPrefix(path string) error {
	switch {
	case path == "/":
		return nil
	case len(path) > MaxPath:
		return fault.New(fault.Limit, "check path", quoted(path[:32])+"...", "%d bytes, at most %d are allowed", len(path), MaxPath)
	case path == "" || path[0] != '/':
		return fault.New(fault.Invalid, "check path", quoted(path), "a path begins with a slash")
	}
	for element := range strings.SplitSeq(path[1:], "/") {
		if why := checkElement(element); why != "" {
			return fault.New(fault.Invalid, "check path", quoted(path), "%s", why)
		}
	}
	return nil
}

func checkElement(element string) string {
	switch {
	case element == "":
		return "an element is empty"
	case element == "." || element == "..":
		return "an element is a dot or two"
	case len(element) > MaxElement:
		return "an element is longer than 255 bytes"
	}
	for i := range len(element) {
		if !inElement(element[i]) {
			return "only letters, digits and -_.:@+% are allowed in an element"
		}
	}
	return ""
}

func inElement(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-_.:@+%", c) >= 0
}

// quoted makes a hostile path fit to be shown: what is not printable ASCII
// becomes '?'.
func quoted(path string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, path)
}

// Join makes a path of elements: Join("networks", "lan") is "/networks/lan".
// It does not check them; the store does.
func Join(elements ...string) string { return "/" + strings.Join(elements, "/") }

// Under reports whether path is prefix or lies below it.
func Under(prefix, path string) bool {
	if prefix == "/" {
		return true
	}
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}
