package keeper

import (
	"encoding/json"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzHandle sends anything to the keeper, packet by packet, of two connections:
// no descriptor may leak, and nothing may be taken twice.
func FuzzHandle(f *testing.F) {
	encode := func(r request) []byte {
		raw, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	keep := encode(request{Op: opKeep, Description: &Description{ID: "a"}})
	f.Add(keep, byte(1), encode(request{Op: opAdd, Index: 3}), byte(1), encode(request{Op: opTake, ID: "a"}), byte(0))
	f.Add(keep, byte(1), keep, byte(1), encode(request{Op: opDrop, ID: "a"}), byte(2))
	f.Add(keep, byte(1), encode(request{Op: opRemove, Index: -1}), byte(3), encode(request{Op: opList}), byte(1))
	f.Add([]byte("{}"), byte(0), []byte(`{"op":"add","index":99999999}`), byte(1), []byte("[1"), byte(2))
	f.Fuzz(func(t *testing.T, first []byte, firstFDs byte, second []byte, secondFDs byte, third []byte, thirdFDs byte) {
		before := open(t)
		s := NewServer(func(Description) error { return nil }, slog.New(slog.DiscardHandler))
		var a, b session
		for i, packet := range []struct {
			raw []byte
			fds byte
		}{{first, firstFDs}, {second, secondFDs}, {third, thirdFDs}, {second, secondFDs}} {
			c := &a
			if i == 2 {
				c = &b
			}
			var fds []int
			for range packet.fds % 4 {
				fd, err := unix.Dup(0)
				if err != nil {
					t.Fatal(err)
				}
				fds = append(fds, fd)
			}
			reply, send := s.handle(c, packet.raw, fds)
			if reply.Error != "" && len(send) > 0 {
				t.Errorf("%q comes with descriptors", reply.Error)
			}
			closeAll(send)
		}
		if a.restore != nil && a.restore == b.restore {
			t.Error("two have taken one restore")
		}
		for _, r := range s.restores {
			r.close()
		}
		if after := open(t); after != before {
			t.Errorf("%d descriptors were open, and now %d", before, after)
		}
	})
}

func open(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
