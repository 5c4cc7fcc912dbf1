package network

// IsLabel says whether s is one label of a host name: 1 to 63 letters, digits
// and hyphens, no hyphen at either end (RFC 1123 section 2.1). Networks,
// branes and interfaces have such names, so that each is a domain name too.
func IsLabel(s string) bool {
	if len(s) == 0 || len(s) > MaxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' {
			return false
		}
	}
	return true
}

// IsDomain says whether s is one or more labels with dots between them, at
// most MaxDomain bytes, with no dot at an end.
func IsDomain(s string) bool {
	if len(s) > MaxDomain {
		return false
	}
	start := 0
	for i := range len(s) {
		if s[i] == '.' {
			if !IsLabel(s[start:i]) {
				return false
			}
			start = i + 1
		}
	}
	return IsLabel(s[start:])
}

// isInterfaceName: as the kernel's dev_valid_name has it, without blanks and
// slashes, and of visible ASCII only.
func isInterfaceName(s string) bool {
	if len(s) == 0 || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '/' || c == ':' {
			return false
		}
	}
	return true
}

// isUUID: 8-4-4-4-12 lower-case hexadecimal digits (RFC 9562 section 4).
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f') {
				return false
			}
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// clip keeps a hostile value from filling a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
