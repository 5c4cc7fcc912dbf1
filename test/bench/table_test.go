package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedianOfRatios(t *testing.T) {
	a, b := series{10, 40, 30}, series{5, 10, math.NaN()}
	if got := a.over(b); got != 3 {
		t.Errorf("the median of 2 and 4 is %v", got)
	}
	if got := a.median(); got != 30 {
		t.Errorf("median %v", got)
	}
	if got := (series{math.NaN()}).median(); !math.IsNaN(got) {
		t.Errorf("a failed series has the median %v", got)
	}
}

func TestMarkdown(t *testing.T) {
	tests := []test{{name: "TCP", unit: "Gbit/s", digits: 1}}
	peers := []*peer{{name: "brane"}, {name: "veth"}, {name: "gone"}}
	out := markdown("T", tests, peers, results{"TCP": {"brane": {2, 2}, "veth": {4, 4}, "gone": {math.NaN()}}})
	for _, want := range []string{"| brane | 2.0 (2.0-2.0) |  |", "| veth | 4.0 (4.0-4.0) | 0.50 × |", "| gone | - |"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
