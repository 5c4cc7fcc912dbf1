package nsexec

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"brane/internal/fault"
)

// lines gives the form of an ID map that the kernel reads, user_namespaces(7).
func lines(m []Map) []byte {
	var b []byte
	for _, l := range m {
		b = fmt.Appendf(b, "%d %d %d\n", l.Inside, l.Outside, l.Count)
	}
	return b
}

// ownMaps is what the child writes about itself, in the order that the kernel
// wants: setgroups(2) must be given up before an unprivileged group map.
func ownMaps(c *Cmd) []mapping {
	var ms []mapping
	add := func(path string, data []byte) {
		p, _ := syscall.BytePtrFromString(path) // no NUL in a constant
		ms = append(ms, mapping{p, data})
	}
	if len(c.GIDs) > 0 {
		add("/proc/self/setgroups", []byte("deny"))
		add("/proc/self/gid_map", lines(c.GIDs))
	}
	if len(c.UIDs) > 0 {
		add("/proc/self/uid_map", lines(c.UIDs))
	}
	return ms
}

// writeMaps writes the maps of the child, which waits and cannot have been replaced.
func writeMaps(pid int, c *Cmd) error {
	for _, m := range []struct {
		file string
		ids  []Map
	}{{"gid_map", c.GIDs}, {"uid_map", c.UIDs}} {
		if len(m.ids) == 0 {
			continue
		}
		path := "/proc/" + strconv.Itoa(pid) + "/" + m.file
		if err := os.WriteFile(path, lines(m.ids), 0); err != nil {
			return fault.New(fault.Denied, "map IDs", "", "%v", err).
				WithRemedy("run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP, or as an ordinary user")
		}
	}
	return nil
}

// Identity returns the map that gives every ID of the caller's user namespace
// its own number: file is "/proc/self/uid_map" or "/proc/self/gid_map".
func Identity(file string) ([]Map, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.New(fault.Internal, "read", file, "%v", err)
	}
	return identity(b)
}

// maxLines is the kernel's limit of lines of an ID map.
const maxLines = 340

func identity(b []byte) ([]Map, error) {
	var ms []Map
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 3 || len(ms) == maxLines {
			return nil, fault.New(fault.Invalid, "read", "ID map", "line %d: not three numbers, or too many lines", len(ms)+1)
		}
		in, err1 := strconv.ParseUint(string(f[0]), 10, 32)
		n, err2 := strconv.ParseUint(string(f[2]), 10, 32)
		if err1 != nil || err2 != nil || n == 0 || in+n > 1<<32 {
			return nil, fault.New(fault.Invalid, "read", "ID map", "line %d: not a range of IDs", len(ms)+1)
		}
		ms = append(ms, Map{uint32(in), uint32(in), uint32(n)})
	}
	return ms, nil
}
