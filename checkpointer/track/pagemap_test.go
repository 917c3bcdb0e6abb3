package track

import (
	"reflect"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

func TestScanThatTellsPagesTwice(t *testing.T) {
	type spans [][2]uint64
	set := func(list spans) (out memory.Set) {
		for _, span := range list {
			out = append(out, memory.Span{Start: span[0], End: span[1]})
		}
		return out
	}
	tests := map[string]struct{ told, want spans }{
		"in order":         {spans{{1, 2}, {4, 5}}, spans{{1, 2}, {4, 5}}},
		"touching":         {spans{{1, 2}, {2, 5}}, spans{{1, 5}}},
		"twice":            {spans{{1, 2}, {4, 5}, {4, 5}, {7, 8}}, spans{{1, 2}, {4, 5}, {7, 8}}},
		"more of it":       {spans{{1, 3}, {2, 5}}, spans{{1, 5}}},
		"less of it":       {spans{{1, 9}, {2, 5}}, spans{{1, 9}}},
		"from further off": {spans{{1, 2}, {4, 5}, {7, 9}, {2, 5}}, spans{{1, 5}, {7, 9}}},
	}
	for name, test := range tests {
		var got memory.Set
		for _, span := range set(test.told) {
			got = extend(got, span)
		}
		if want := set(test.want); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
