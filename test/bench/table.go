package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// series is the values of one peer in one test, by round; NaN where it failed.
type series []float64

func (s series) sorted() []float64 {
	var list []float64
	for _, v := range s {
		if !math.IsNaN(v) {
			list = append(list, v)
		}
	}
	slices.Sort(list)
	return list
}

func (s series) median() float64 {
	list := s.sorted()
	if len(list) == 0 {
		return math.NaN()
	}
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}

// over is the median of the rounds' ratios to another series.
func (s series) over(base series) float64 {
	var ratios series
	for i := range min(len(s), len(base)) {
		ratios = append(ratios, s[i]/base[i])
	}
	return ratios.median()
}

// test is one kind of measurement.
type test struct {
	name, unit string
	digits     int
	run        func(*lab, *peer) (float64, error)
}

// results of a section: [test][peer].
type results map[string]map[string]series

// measure runs every test on every peer, round by round.
func (l *lab) measure(tests []test, peers []*peer) results {
	all := results{}
	for _, t := range tests {
		all[t.name] = map[string]series{}
	}
	for round := range l.rounds {
		for _, t := range tests {
			for i := range peers {
				// Each round begins with another peer: none is always the first.
				p := peers[(i+round)%len(peers)]
				v, err := t.run(l, p)
				if err != nil {
					v = math.NaN()
					l.note("%s, %s: %v", p.name, t.name, err)
				}
				all[t.name][p.name] = append(all[t.name][p.name], v)
				l.say("round %d  %-22s %-14s %.*f %s", round+1, t.name, p.name, t.digits, v, t.unit)
			}
		}
	}
	return all
}

// markdown is one table: peers in rows, tests in columns; medians, and the
// median ratio of Brane to each peer.
func markdown(title string, tests []test, peers []*peer, all results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| peer |", title)
	for _, t := range tests {
		fmt.Fprintf(&b, " %s, %s | brane is |", t.name, t.unit)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" ---: | ---: |", len(tests)) + "\n")
	for _, p := range peers {
		fmt.Fprintf(&b, "| %s |", p.name)
		for _, t := range tests {
			s, own := all[t.name][p.name], all[t.name]["brane"]
			fmt.Fprintf(&b, " %s | %s |", cell(s, t.digits), ratio(own.over(s), p.name == "brane"))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func cell(s series, digits int) string {
	list := s.sorted()
	if len(list) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.median(), digits, list[0], digits, list[len(list)-1])
}

func ratio(r float64, self bool) string {
	if self || math.IsNaN(r) {
		return ""
	}
	return fmt.Sprintf("%.2f ×", r)
}
