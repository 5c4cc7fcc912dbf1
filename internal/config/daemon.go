package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/goccy/go-yaml"

	"brane/internal/fault"
	"brane/internal/network"
)

// Daemon is the daemon's own configuration, brane.yaml. examples/brane.yaml
// names every key with its default.
type Daemon struct {
	Log     slog.Level     // messages below it are not written
	Subnets []netip.Prefix // IPv4, tried in order for the built-in network
}

const (
	opConfig      = "read configuration"
	maxConfig     = 64 << 10 // bytes
	maxCandidates = 64       // subnets
)

// DefaultDaemon is the configuration without a file.
func DefaultDaemon() Daemon { return Daemon{Log: slog.LevelInfo, Subnets: network.DefaultSubnets()} }

// LoadDaemon reads the file at path; one that is not there says nothing, and
// everything has its default.
func LoadDaemon(path string) (Daemon, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultDaemon(), nil
	}
	if err != nil {
		return Daemon{}, fault.New(fault.Unavailable, opConfig, path, "%v", err)
	}
	defer func() { _ = f.Close() }()
	return ParseDaemon(f, path)
}

// ParseDaemon reads a configuration; file is its name for messages. A key that
// is not known, given twice or of the wrong kind is an error of kind
// fault.Invalid, and nothing of the file is used.
func ParseDaemon(in io.Reader, file string) (Daemon, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return Daemon{}, fault.New(fault.Unavailable, opConfig, file, "%v", err)
	}
	if len(text) > maxConfig {
		return Daemon{}, fault.New(fault.Limit, opConfig, file, "it is longer than %d bytes", maxConfig)
	}
	var raw struct {
		Log     *string `yaml:"log"`
		Default struct {
			Subnets *[]string `yaml:"subnets"`
		} `yaml:"default-network"`
	}
	y := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := y.Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return Daemon{}, badYAML(file, err)
	}
	var more any
	if err := y.Decode(&more); !errors.Is(err, io.EOF) {
		return Daemon{}, fault.New(fault.Invalid, opConfig, file, "there is a second document in it")
	}
	d := DefaultDaemon()
	if raw.Log != nil {
		if d.Log, err = logLevel(*raw.Log); err != nil {
			return Daemon{}, invalid(file, "log", err)
		}
	}
	if raw.Default.Subnets != nil {
		if d.Subnets, err = candidates(*raw.Default.Subnets); err != nil {
			return Daemon{}, invalid(file, "default-network.subnets", err)
		}
	}
	return d, nil
}

// badYAML keeps the place that the decoder knows, and leaves out its drawing of the source.
func badYAML(file string, err error) error {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil || e.GetToken().Position == nil {
		return fault.New(fault.Invalid, opConfig, file, "%s", clip(err.Error()))
	}
	at := e.GetToken().Position
	return fault.New(fault.Invalid, opConfig, fmt.Sprintf("%s:%d:%d", file, at.Line, at.Column), "%s", clip(e.GetMessage())).
		WithRemedy("examples/brane.yaml has every key")
}

func invalid(file, key string, err error) error {
	return fault.New(fault.Invalid, opConfig, file, "%s: %v", key, err).WithRemedy("examples/brane.yaml has every key")
}

func logLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is none of debug, info, warn, error", clip(s))
}

// candidates are subnets that can be the built-in network: its definition has
// to stand the check.
func candidates(list []string) ([]netip.Prefix, error) {
	if len(list) == 0 || len(list) > maxCandidates {
		return nil, fmt.Errorf("%d subnets, not 1 to %d", len(list), maxCandidates)
	}
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || p != p.Masked() || !p.Addr().Is4() || p.Bits() != 24 {
			return nil, fmt.Errorf("%q is no IPv4 subnet like 192.168.122.0/24", clip(s))
		}
		def := network.Default(p)
		if problems := def.Problems(); len(problems) > 0 {
			return nil, fmt.Errorf("%s: %s", p, problems[0].Detail)
		}
		out = append(out, p)
	}
	return out, nil
}
