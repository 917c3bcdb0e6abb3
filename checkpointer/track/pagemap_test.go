package track

import (
	"reflect"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

func TestScanThatTellsPagesTwice(t *testing.T) {
	tests := map[string]struct{ told, want []memory.Span }{
		"in order":         {[]memory.Span{{1, 2}, {4, 5}}, memory.Set{{1, 2}, {4, 5}}},
		"touching":         {[]memory.Span{{1, 2}, {2, 5}}, memory.Set{{1, 5}}},
		"twice":            {[]memory.Span{{1, 2}, {4, 5}, {4, 5}, {7, 8}}, memory.Set{{1, 2}, {4, 5}, {7, 8}}},
		"more of it":       {[]memory.Span{{1, 3}, {2, 5}}, memory.Set{{1, 5}}},
		"less of it":       {[]memory.Span{{1, 9}, {2, 5}}, memory.Set{{1, 9}}},
		"from further off": {[]memory.Span{{1, 2}, {4, 5}, {7, 9}, {2, 5}}, memory.Set{{1, 5}, {7, 9}}},
	}
	for name, test := range tests {
		var set memory.Set
		for _, span := range test.told {
			set = extend(set, span)
		}
		if !reflect.DeepEqual(set, memory.Set(test.want)) {
			t.Errorf("%s: %v, want %v", name, set, test.want)
		}
	}
}
