package frame

import (
	"crypto/sha256"
	"errors"
)

// Broadcast is the address of all stations.
func Broadcast() MAC { return MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

var errMAC = errors.New("a MAC address is six pairs of hexadecimal digits with colons: 02:00:5e:10:00:01")

// ParseMAC reads aa:bb:cc:dd:ee:ff, in either case, and no other form.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return MAC{}, errMAC
	}
	for i := range m {
		hi, lo := unhex(s[3*i]), unhex(s[3*i+1])
		if hi > 15 || lo > 15 || i < 5 && s[3*i+2] != ':' {
			return MAC{}, errMAC
		}
		m[i] = hi<<4 | lo
	}
	return m, nil
}

// unhex gives the value of a hexadecimal digit, 255 for any other byte.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// DeriveMAC gives the interface name of network its address: always the same,
// unicast, locally administered (IEEE 802c, the quadrant administrators
// assign), otherwise 44 bits of a hash. A network holds few enough names that
// two alike are not to be expected; who hands out addresses checks all the same.
func DeriveMAC(network, name string) MAC {
	h := sha256.Sum256([]byte(network + "\x00" + name))
	m := MAC(h[:6])
	m[0] = m[0]&0xf0 | 0x02
	return m
}

// String gives aa:bb:cc:dd:ee:ff.
func (m MAC) String() string {
	b, _ := m.AppendText(make([]byte, 0, 17))
	return string(b)
}

// AppendText appends the form of String to b.
func (m MAC) AppendText(b []byte) ([]byte, error) {
	const digits = "0123456789abcdef"
	for i, x := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return b, nil
}

// MarshalText gives the form of String.
func (m MAC) MarshalText() ([]byte, error) { return m.AppendText(make([]byte, 0, 17)) }

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}

// IsMulticast says whether the address is a group's; broadcast is one.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// IsBroadcast says whether the address is that of all stations.
func (m MAC) IsBroadcast() bool { return m == Broadcast() }

// IsZero says whether the address is 00:00:00:00:00:00, which no station has.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsLocal says whether the address is locally administered.
func (m MAC) IsLocal() bool { return m[0]&2 != 0 }

// IsLinkLocal says whether the address is in 01:80:c2:00:00:00 to 0f, which
// bridges do not forward (IEEE 802.1Q section 8.6.3).
func (m MAC) IsLinkLocal() bool {
	return m[0] == 0x01 && m[1] == 0x80 && m[2] == 0xc2 && m[3] == 0 && m[4] == 0 && m[5] < 0x10
}
