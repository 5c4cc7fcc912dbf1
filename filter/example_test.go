package filter_test

import (
	"fmt"

	"brane/filter"
	"brane/frame"
)

func ExampleParse() {
	e, err := filter.Parse("tcp dst port https or (http or 8080) and not net 10")
	fmt.Println(e, err) // and/or are equal: the list is "(... or ... or ...) and not ..."
	_, err = filter.Parse("tcp prot 80")
	fmt.Println(err)
	// Output:
	// tcp dst port 443 or tcp dst port 80 or tcp dst port 8080 and not net 10.0.0.0/8 <nil>
	// parse filter: byte 4: expected 'and', 'or' or the end, not "prot"; did you mean 'port'?
}

func ExampleProgram_Match() {
	e, _ := filter.Parse("not tcp port 25")
	program := filter.Compile(e)
	var p frame.Packet
	p.Parse([]byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00\x45\x00")) // the rest was cut off
	fmt.Println(program.Match(&p))
	// Output: undecidable
}
