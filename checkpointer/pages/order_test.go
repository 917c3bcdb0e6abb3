package pages

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// TestOrder has changes of several threads in an order that the kernel may report.
func TestOrder(t *testing.T) {
	const a, b, c = 0x100000, 0x200000, 0x300000
	const length = 0x10000
	unmap := func(at uint64) message { return message{eventUnmap, at, at + length, 0} }
	move := func(from, to uint64) message { return message{eventRemap, from, to, length} }
	remove := func(at uint64) message { return message{eventRemove, at, at + length, 0} }
	tests := map[string]struct {
		changes          []message
		occupied, mapped []uint64 // before and after
		want             []message
	}{
		"a move's echo": {
			changes: []message{move(a, c), unmap(a)}, occupied: []uint64{a}, mapped: []uint64{c},
			want: []message{move(a, c)},
		},
		"into the room of another move": {
			changes: []message{move(b, a), move(a, c), unmap(a), unmap(b)}, occupied: []uint64{a, b}, mapped: []uint64{a, c},
			want: []message{move(a, c), move(b, a)},
		},
		"into the room of another move, of memory never used": {
			changes: []message{move(b, a), move(a, c), unmap(b), unmap(a)}, occupied: []uint64{b}, mapped: []uint64{a, c},
			want: []message{move(a, c), move(b, a)},
		},
		"on and on": {
			changes: []message{move(b, a), unmap(b), move(a, c), unmap(a)}, occupied: []uint64{b}, mapped: []uint64{c},
			want: []message{move(b, a), move(a, c)},
		},
		"into what was unmapped": {
			changes: []message{move(b, a), unmap(a), unmap(b)}, occupied: []uint64{a, b}, mapped: []uint64{a},
			want: []message{unmap(a), move(b, a)},
		},
		"unmapped after the move": {
			changes: []message{move(b, a), unmap(b), unmap(a)}, occupied: []uint64{b}, mapped: nil,
			want: []message{move(b, a), unmap(a)},
		},
		"the echo comes late": {
			changes: []message{move(a, c), move(b, a), unmap(b), unmap(a)}, occupied: []uint64{a, b}, mapped: []uint64{a, c},
			want: []message{move(a, c), move(b, a)},
		},
		"fixed over others": {
			changes: []message{unmap(a), move(b, a), unmap(b)}, occupied: []uint64{a, b}, mapped: []uint64{a},
			want: []message{unmap(a), move(b, a)},
		},
		"removing": {
			changes: []message{remove(a), move(a, c), unmap(a), remove(c)}, occupied: []uint64{a}, mapped: []uint64{c},
			want: []message{remove(a), move(a, c), remove(c)},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var occupied memory.Set
			for _, at := range test.occupied {
				occupied = append(occupied, memory.Span{Start: at, End: at + length})
			}
			mapped := func(address uint64) bool {
				for _, at := range test.mapped {
					if at == address {
						return true
					}
				}
				return false
			}
			got := order(test.changes, func(s memory.Span) bool { return len(memory.Intersect(memory.NewSet(occupied...), memory.Set{s})) > 0 }, mapped)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(message{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
