package pages

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// TestChangesOfSeveralThreads has events in orders in which the kernel may report
// them. Each block's content is the chunk with the block's own number.
func TestChangesOfSeveralThreads(t *testing.T) {
	const length = 1 << 14
	at := func(block uint64) uint64 { return 0x1000000 + block*length }
	unmap := func(block uint64) message { return message{eventUnmap, at(block), at(block) + length, 0} }
	move := func(from, to uint64) message { return message{eventRemap, at(from), at(to), length} }
	remove := func(block uint64) message { return message{eventRemove, at(block), at(block) + length, 0} }
	type blocks map[uint64]int
	tests := map[string]struct {
		held    blocks
		changes []message
		want    blocks // what is wanted at last
	}{
		"a move":                             {blocks{1: 1}, []message{move(1, 3), unmap(1)}, blocks{3: 1}},
		"the echo comes late":                {blocks{1: 1, 2: 2}, []message{move(1, 3), move(2, 1), unmap(2), unmap(1)}, blocks{3: 1, 1: 2}},
		"into the room of a move":            {blocks{1: 1, 2: 2}, []message{move(2, 1), move(1, 3), unmap(1), unmap(2)}, blocks{3: 1, 1: 2}},
		"into the room of what was unmapped": {blocks{1: 1, 2: 2}, []message{move(2, 1), unmap(2), unmap(1)}, blocks{1: 2}},
		"a chain of three": {
			blocks{1: 1, 2: 2, 3: 3}, []message{move(3, 2), unmap(3), move(2, 1), unmap(2), move(1, 4), unmap(1)}, blocks{4: 1, 1: 2, 2: 3},
		},
		"fixed over others":          {blocks{1: 1, 2: 2}, []message{unmap(1), move(2, 1), unmap(2)}, blocks{1: 2}},
		"on and on":                  {blocks{1: 1}, []message{move(1, 2), unmap(1), move(2, 3), unmap(2)}, blocks{3: 1}},
		"unmapped before or after":   {blocks{1: 1}, []message{move(1, 2), unmap(1), unmap(2)}, blocks{2: 1}}, // putting it there will tell
		"removed on the way":         {blocks{1: 1, 2: 2}, []message{move(2, 1), remove(1), move(1, 3), unmap(1), unmap(2)}, blocks{3: 1}},
		"nobody tells who made room": {blocks{1: 1, 2: 2}, []message{move(2, 1), unmap(2)}, blocks{1: 2}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var chunks []memory.Chunk
			for block, id := range test.held {
				chunks = append(chunks, memory.Chunk{ID: id, Bytes: length, Places: []memory.Place{{PID: 1, Address: at(block), Length: length}}})
			}
			l, err := lay(chunks, func(int) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			s := l.spaces[1]
			var notes []record
			for _, m := range test.changes {
				notes = append(notes, s.change(m)...)
			}
			notes = append(notes, s.settle()...)

			// A successor comes to the same.
			again, err := lay(chunks, func(int) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			d := &Daemon{spaces: []*space{again.spaces[1]}}
			for _, r := range notes {
				if err := d.replayed(r); err != nil {
					t.Fatal(err)
				}
			}
			for who, space := range map[string]*space{"the daemon": s, "its successor": again.spaces[1]} {
				got := blocks{}
				var missing int64
				for _, p := range space.pieces {
					if wanted := p.wanted.Load(); wanted == pageBits(0, length/pageSize) {
						got[(p.address-at(0))/length] = p.chunk.id
						missing += length / int64(pageSize)
					}
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("%s: %s", who, diff)
				}
				if space.missing.Load() != missing {
					t.Errorf("%s misses %d pages, not %d", who, space.missing.Load(), missing)
				}
			}
		})
	}
}
