package frame

import "testing"

func TestVnetForms(t *testing.T) {
	v := Vnet{
		Flags: 1, GSOType: GSOTCPv4 | GSOECN, HdrLen: 0x0102, GSOSize: 0x0304, CsumStart: 0x0506,
		CsumOffset: 0x0708, NumBuffers: 0x090a,
	}
	want := []byte{1, 0x81, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9}
	b := make([]byte, VnetLen)
	v.Put(b)
	if string(b) != string(want) {
		t.Errorf("Put wrote % x, want % x", b, want)
	}
	if got, ok := ParseVnet(b); !ok || got != v {
		t.Errorf("ParseVnet = %+v, %v", got, ok)
	}
	short := make([]byte, VnetLegacyLen)
	v.Put(short)
	if string(short) != string(want[:10]) {
		t.Errorf("Put wrote % x into 10 bytes", short)
	}
	v.NumBuffers = 0
	if got, ok := ParseVnet(short); !ok || got != v {
		t.Errorf("ParseVnet of 10 bytes = %+v, %v", got, ok)
	}
	if _, ok := ParseVnet(short[:9]); ok {
		t.Error("ParseVnet took 9 bytes")
	}
}
