package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"brane/internal/fault"
	"brane/internal/store"
)

// call is one operation of a client on one record; answer is what came back.
type call struct {
	key      int
	read     bool
	value    string
	expected store.Revision // compared with, or unconditional
}

type answer struct {
	value    string
	modified store.Revision // 0: there is no record
	conflict bool
}

const unconditional store.Revision = -2

// register is the model of one record.
func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return answer{} },
		Step: func(state, input, output any) (bool, any) {
			now, in, out := state.(answer), input.(call), output.(answer)
			switch {
			case in.read:
				return out == now, now
			case in.expected != unconditional && in.expected != now.modified:
				return out.conflict, now
			default:
				return !out.conflict && out.modified > now.modified, answer{value: in.value, modified: out.modified}
			}
		},
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			var parts [][]porcupine.Operation
			index := map[int]int{}
			for _, op := range history {
				key := op.Input.(call).key
				if _, ok := index[key]; !ok {
					index[key] = len(parts)
					parts = append(parts, nil)
				}
				parts[index[key]] = append(parts[index[key]], op)
			}
			return parts
		},
	}
}

// testLinearizable: what the clients saw could have happened one after the
// other, each operation at one moment between its call and its return.
func testLinearizable(t *testing.T, s store.Store) {
	const clients, keys = 16, 8
	seed, start := Seed(t), time.Now()
	for range count(1, 100) {
		histories := make([][]porcupine.Operation, clients)
		var all sync.WaitGroup
		for c := range clients {
			all.Go(func() {
				rng, last := Rand(seed, c), map[int]store.Revision{}
				for i := range count(60, 625) {
					in := someCall(rng, keys, fmt.Sprintf("%d-%d", c, i), last)
					before := time.Since(start)
					out, err := perform(s, in)
					after := time.Since(start)
					if err != nil {
						t.Error(err)
						return
					}
					if !out.conflict {
						last[in.key] = out.modified
					}
					histories[c] = append(histories[c], porcupine.Operation{
						ClientId: c, Input: in, Call: int64(before), Output: out, Return: int64(after),
					})
				}
			})
		}
		all.Wait()
		var history []porcupine.Operation
		for _, h := range histories {
			history = append(history, h...)
		}
		if r := porcupine.CheckOperationsTimeout(register(), history, time.Minute); r != porcupine.Ok {
			t.Fatalf("%d operations: %s", len(history), r)
		}
		seed++
		apply(t, s, removeTree("/key"))
	}
}

func someCall(rng *rand.Rand, keys int, value string, last map[int]store.Revision) call {
	in := call{key: rng.IntN(keys), value: value, expected: unconditional}
	switch rng.IntN(4) {
	case 0:
		in.read = true
	case 1, 2:
		in.expected = last[in.key]
	}
	return in
}

func perform(s store.Store, in call) (answer, error) {
	path := fmt.Sprintf("/key/%d", in.key)
	if in.read {
		r, err := s.Get(path)
		if fault.KindOf(err) == fault.NotFound {
			return answer{}, nil
		}
		return answer{value: string(r.Value), modified: r.Modified}, err
	}
	txn := store.Txn{By: tester, Do: []store.Op{put(path, in.value)}}
	if in.expected != unconditional {
		txn.If = []store.Compare{{Path: path, Modified: in.expected}}
	}
	rev, err := s.Apply(txn)
	if fault.KindOf(err) == fault.Conflict {
		return answer{conflict: true}, nil
	}
	return answer{value: in.value, modified: rev}, err
}
