package store_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary the program that a test kills or traces.
const childEnv = "BRANE_STORE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(child(path))
	}
	goleak.VerifyTestMain(m)
}
