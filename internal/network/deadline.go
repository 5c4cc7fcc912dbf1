package network

import "time"

// Moment is one reading of the machine's clocks, taken by the caller.
type Moment struct {
	Boot string        // /proc/sys/kernel/random/boot_id
	Up   time.Duration // CLOCK_BOOTTIME: since boot, sleep included
	Wall time.Time     // only shown, never decided by
}

// Deadline is the kept form of "at this time". The wall clock may jump by
// years (a dead battery, a wrong time server), so it has no part in it:
// the deadline counts the time since boot and names the boot that it counts
// from. In another boot nobody can say how long the machine was off, and the
// whole length is granted again: what was promised is never cut short, and it
// is kept at most one length longer for each boot.
//
// The zero Deadline has passed.
type Deadline struct {
	Boot   string        `json:"boot"`
	At     time.Duration `json:"at"`     // of CLOCK_BOOTTIME
	Length time.Duration `json:"length"` // as granted; negative: for ever
}

// Never is the deadline that does not come.
const Never time.Duration = -1

// After is the deadline that comes length after m; never when length is negative.
func (m Moment) After(length time.Duration) Deadline {
	if length < 0 {
		return Deadline{Length: Never}
	}
	return Deadline{Boot: m.Boot, At: m.Up + length, Length: length}
}

// Left is what remains at now: 0 when the deadline has passed, Never when it
// does not come. The Deadline returned is d, counted from the present boot; the
// caller keeps it when it differs from d.
func (d Deadline) Left(now Moment) (time.Duration, Deadline) {
	switch {
	case d.Length < 0:
		return Never, d
	case d.Boot != now.Boot:
		if d == (Deadline{}) {
			return 0, d
		}
		return d.Length, now.After(d.Length)
	}
	// Less than nothing has passed since the grant only if Up was misread: grant
	// no more than the length.
	return min(max(d.At-now.Up, 0), d.Length), d
}

// Passed says whether the deadline has come at now.
func (d Deadline) Passed(now Moment) bool {
	left, _ := d.Left(now)
	return left == 0
}
