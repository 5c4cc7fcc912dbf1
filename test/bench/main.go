// Command bench measures Brane beside what people use today: between guests,
// between a guest and the outside, what a start costs, and what memory. It runs
// as root, in network namespaces that it makes and takes away; Brane and its
// guests run as the ordinary account brane-test.
//
// Every round takes each peer once, one after the other, so that what disturbs
// the machine disturbs all of them; a ratio is the median of the rounds' own
// ratios, which is steadier than the ratio of two medians.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	brane, only, out, tapcat string
	rounds                   int
	secs                     float64
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "load" {
		if err := load(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench load:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.brane, "brane", "dist/brane", "the binary to measure")
	flag.StringVar(&o.only, "only", "guests,outside,start,memory", "sections to run")
	flag.StringVar(&o.out, "out", "", "Markdown file whose tables are replaced (default: standard output)")
	flag.StringVar(&o.tapcat, "tapcat", "", "the bare C loop between two TAPs, as one more peer")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds")
	flag.Float64Var(&o.secs, "secs", 2, "seconds of each measurement")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// section measures one part and gives its tables.
type section struct {
	name string
	run  func(*lab) (string, error)
}

func sections() []section {
	return []section{{"guests", guests}, {"outside", outside}, {"start", start}, {"memory", memory}}
}

func run(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces: run it as root")
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	var text strings.Builder
	text.WriteString(heading(o))
	for _, s := range sections() {
		if !slices.Contains(strings.Split(o.only, ","), s.name) {
			continue
		}
		l, err := newLab(o)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			select {
			case <-interrupted:
				l.close()
				os.Exit(130)
			case <-done:
			}
		}()
		table, err := s.run(l)
		close(done)
		l.close()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		text.WriteString("\n" + table)
	}
	if o.out == "" {
		_, err := os.Stdout.WriteString(text.String())
		return err
	}
	return replace(o.out, text.String())
}

// mark divides what people write in the file from what is measured.
const mark = "<!-- measured: what follows is written by make bench -->\n"

func replace(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(string(old), mark)
	return os.WriteFile(path, []byte(strings.TrimRight(head, "\n")+"\n\n"+mark+"\n"+text), 0o644)
}

// heading says where and when.
func heading(o options) string {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	avg, _ := os.ReadFile("/proc/loadavg")
	version, _ := exec.Command(o.brane, "version").Output()
	return fmt.Sprintf("Machine: %s, %d CPUs, Linux %s, %s. Load when it began: %s.\nMeasured %s: %s. `make bench` (%d rounds, %g s each).\n",
		model(), runtime.NumCPU(), release.String(), runtime.Version(), strings.Join(strings.Fields(string(avg))[:3], " "),
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), strings.TrimSpace(string(version)), o.rounds, o.secs)
}

func model() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
