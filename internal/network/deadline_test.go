package network_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"brane/internal/network"
)

func TestDeadlineInOneBoot(t *testing.T) {
	start := network.Moment{Boot: "a", Up: time.Hour, Wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	d := start.After(10 * time.Minute)
	for _, c := range []struct {
		after time.Duration
		left  time.Duration
	}{{0, 10 * time.Minute}, {9 * time.Minute, time.Minute}, {10 * time.Minute, 0}, {time.Hour, 0}, {-time.Hour, 10 * time.Minute}} {
		for _, jump := range []int{-10, 0, 10} {
			now := network.Moment{Boot: "a", Up: start.Up + c.after, Wall: start.Wall.AddDate(jump, 0, 0)}
			left, same := d.Left(now)
			if left != c.left || same != d {
				t.Errorf("%v later, wall clock %+d years: %v left, want %v", c.after, jump, left, c.left)
			}
			if d.Passed(now) != (c.left == 0) {
				t.Errorf("%v later: passed %v", c.after, d.Passed(now))
			}
		}
	}
}

func TestDeadlineSpecial(t *testing.T) {
	now := network.Moment{Boot: "a", Up: time.Hour}
	if !(network.Deadline{}).Passed(now) {
		t.Error("the zero deadline has not passed")
	}
	for _, boot := range []string{"a", "b"} {
		if now.After(network.Never).Passed(network.Moment{Boot: boot, Up: 1 << 62}) {
			t.Error("never has come, boot", boot)
		}
	}
}

// Whatever boots and clocks do, a grant lasts at least its length while the
// machine is up, and at most one length more for each boot.
func TestDeadlineNeverCutShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := time.Duration(rapid.Int64Range(1, 1e6).Draw(t, "length")) * time.Second
		now := network.Moment{Boot: "0", Up: time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "up"))}
		d := now.After(length)
		var lived time.Duration
		boots := rapid.IntRange(0, 5).Draw(t, "boots")
		for boot := range boots + 1 {
			if boot > 0 {
				now.Boot, now.Up = string(rune('0'+boot)), 0
			}
			var left time.Duration
			left, d = d.Left(now)
			if left == 0 && lived < length {
				t.Fatalf("passed after %v of %v", lived, length)
			}
			step := time.Duration(rapid.Int64Range(0, int64(left)).Draw(t, "step"))
			now.Up += step
			lived += step
		}
		left, _ := d.Left(now)
		if lived+left > length*time.Duration(boots+1) {
			t.Fatalf("granted %v, kept %v over %d boots", length, lived+left, boots)
		}
	})
}
