package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"lukechampine.com/blake3"
)

func TestHashIsKeyedBLAKE3(t *testing.T) {
	data := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{}).Read(data)
	h := newHasher(fixedKey)
	reference := blake3.New(len(chunkHash{}), derive(fixedKey, nil, hashKeyInfo, 32))
	sizes := []int{0, 1, 63, 64, 65, 1023, 1024, 1025, 4096, 5000, 16383, 16384, 16385, 20480, 32768, 32769, 49152, 61440, 65535, 65536, 65537, 131072, 200_001, 300_000}
	for _, size := range sizes {
		reference.Reset()
		reference.Write(data[:size])
		for name, in := range map[string][]byte{"with space behind it": data[:size], "without": slices.Clip(data[:size])} {
			if got := h.sum(in); !bytes.Equal(got[:], reference.Sum(nil)) {
				t.Errorf("the hash of %d bytes %s differs", size, name)
			}
		}
	}
	if newHasher([32]byte{9}).sum(data) == h.sum(data) {
		t.Error("two namespaces have the same hash of the same content")
	}
}

// entry is one pagemap entry, as field numbers and values.
type entry []uint64

func pagemapImage(entries ...entry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, imageMagic)
	out = binary.LittleEndian.AppendUint32(out, pagemapMagic)
	for _, e := range entries {
		var m []byte
		for i := 0; i < len(e); i += 2 {
			m = protowire.AppendTag(m, protowire.Number(e[i]), protowire.VarintType)
			m = protowire.AppendVarint(m, e[i+1])
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(m)))
		out = append(out, m...)
	}
	return out
}

func TestParsePagemap(t *testing.T) {
	const base = 0x7f0000000000
	for name, c := range map[string]struct {
		image []byte
		id    uint64
		runs  []run
		fails bool
	}{
		"new entries count in field 5":   {pagemapImage(entry{1, 7}, entry{1, base, 2, 0, 4, 4, 5, 3}), 7, []run{{base, 3}}, false},
		"old entries count in field 2":   {pagemapImage(entry{1, 7}, entry{1, base, 2, 3, 4, 6}), 7, []run{{base, 3}}, false},
		"entries without flags":          {pagemapImage(entry{1, 7}, entry{1, base, 2, 3}, entry{1, base + 0x10000, 2, 1, 3, 1}), 7, []run{{base, 3}}, false},
		"lazy pages may have no content": {pagemapImage(entry{1, 7}, entry{1, base, 2, 3, 4, 2, 5, 3}, entry{1, base + 0x10000, 4, 6, 5, 1}), 7, []run{{base + 0x10000, 1}}, false},
		"pages of the parent have none":  {pagemapImage(entry{1, 7}, entry{1, base, 2, 3, 4, 1, 5, 3}), 7, nil, false},
		"unknown fields":                 {pagemapImage(entry{1, 7, 99, 1}, entry{1, base, 4, 4, 5, 3, 98, 2}), 7, []run{{base, 3}}, false},
		"only a head":                    {pagemapImage(entry{1, 7}), 7, nil, false},
		"nothing":                        {nil, 0, nil, true},
		"other magic":                    {[]byte("12345678"), 0, nil, true},
		"a head without an ID":           {pagemapImage(entry{2, 7}), 0, nil, true},
		"an entry longer than the image": {append(pagemapImage(entry{1, 7}), 255, 0, 0, 0, 8), 0, nil, true},
		"a length cut short":             {append(pagemapImage(entry{1, 7}), 255, 0), 0, nil, true},
		"an entry that is no message":    {append(pagemapImage(entry{1, 7}), 1, 0, 0, 0, 0xff), 0, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			id, runs, err := parsePagemap(c.image)
			if (err != nil) != c.fails {
				t.Fatalf("error %v", err)
			}
			if err == nil && (id != c.id || !slices.Equal(runs, c.runs)) {
				t.Errorf("got %d, %v", id, runs)
			}
		})
	}
}

func TestCutByAddress(t *testing.T) {
	const k = 1 << 10
	for name, c := range map[string]struct {
		runs []run
		size int64
		want []uint32
	}{
		"at multiples of 64 KiB":        {[]run{{0xf000, 18}}, 18 * 4 * k, []uint32{4 * k, 64 * k, 4 * k}},
		"aligned":                       {[]run{{0x10000, 16}}, 64 * k, []uint32{64 * k}},
		"what a window lacks is no cut": {[]run{{0x10000, 2}, {0x14000, 1}, {0x20000, 1}}, 16 * k, []uint32{12 * k, 4 * k}},
		"larger pages":                  {[]run{{0x10000, 2}}, 128 * k, []uint32{64 * k, 64 * k}},
		"a size that does not fit":      {[]run{{0x10000, 2}}, 8*k + 1, nil},
		"pages too small":               {[]run{{0x10000, 4}}, 8 * k, nil},
		"pages of no power of two":      {[]run{{0x30000, 1}}, 12 * k, nil},
		"an address off its page":       {[]run{{0x10001, 1}}, 4 * k, nil},
		"no pages":                      {nil, 0, nil},
		"more pages than can be":        {[]run{{0, math.MaxUint64}, {0, 2}}, 4 * k, nil},
		"an address past the end":       {[]run{{math.MaxUint64 &^ 0xfff, 2}}, 8 * k, nil},
		"descending":                    {[]run{{0x20000, 1}, {0x10000, 1}}, 8 * k, []uint32{4 * k, 4 * k}},
		"one window again and again":    {[]run{{0x10000, 16}, {0x10000, 16}}, 128 * k, []uint32{64 * k, 64 * k}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := cutByAddress(c.runs, c.size)
			if ok != (c.want != nil) || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
}

func FuzzPagemap(f *testing.F) {
	f.Add(pagemapImage(entry{1, 7}, entry{1, 0x7f0000003000, 2, 40, 4, 6, 5, 40}), int64(40*4096))
	f.Add(pagemapImage(entry{1, 7}, entry{1, 0xf000, 2, 2, 3, 1}, entry{1, 0x20000, 2, 1}), int64(4096))
	f.Fuzz(func(t *testing.T, image []byte, size int64) {
		if size < 0 || size > 16<<20 {
			return
		}
		_, runs, err := parsePagemap(image)
		if err != nil {
			return
		}
		lengths, ok := cutByAddress(runs, size)
		if !ok {
			return
		}
		var total int64
		for _, length := range lengths {
			if length == 0 || length > chunkSize {
				t.Fatalf("chunk of %d bytes", length)
			}
			total += int64(length)
		}
		if total != size {
			t.Fatalf("%d bytes were cut into %d", size, total)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(header{kind: manifestKind, generation: 3, keyID: "key-0001"}.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range [][8]byte{manifestKind, segmentKind} {
			h, rest, err := parseHeader(kind, data)
			if err == nil && !bytes.Equal(append(h.append(nil), rest...), data) {
				t.Fatal("the header is not what was read")
			}
		}
	})
}
