// Package content is what a benchmark's memory holds: each page's content follows
// from its number and from its version, so that whoever reads a page can tell whether it is
// the right one.
package content

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// PageSize is the unit that memory is filled and rewritten in, in bytes.
const PageSize = 4096

// Kind is a way to fill memory.
type Kind string

// The kinds: how well memory compresses decides what a checkpoint of it costs.
const (
	// Random does not compress, and no two pages are the same.
	Random Kind = "random"
	// Text is words of English.
	Text Kind = "text"
	// Zeros is memory that was written, with zeros.
	Zeros Kind = "zeros"
)

// Kinds are all kinds.
var Kinds = []Kind{Random, Text, Zeros}

// Parse returns the kind of that name.
func Parse(name string) (Kind, error) {
	if !slices.Contains(Kinds, Kind(name)) {
		return "", fmt.Errorf("%q is no content: use random, text or zeros", name)
	}
	return Kind(name), nil
}

// Fill writes the content of a page: the one with that number, in that version,
// both below 2^32. len(page) is PageSize.
func (k Kind) Fill(page []byte, number, version uint64) {
	switch k {
	case Random:
		state := mix(number<<32 ^ version)
		for i := 0; i < len(page); i += 8 {
			state += golden
			binary.LittleEndian.PutUint64(page[i:], mix(state))
		}
	case Text:
		text := corpus()
		at := mix(number<<32^version) % uint64(len(text)-PageSize)
		copy(page, text[at:])
	case Zeros:
		clear(page)
	}
}

// golden and mix are SplitMix64's.
const golden = 0x9e3779b97f4a7c15

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Sample yields count different page numbers below pages, at random, and the same
// ones for the same seed. count is at most pages.
func Sample(seed, pages, count uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		random := rand.New(rand.NewPCG(seed, pages))
		taken := make([]uint64, (pages+63)/64)
		for n := min(count, pages); n > 0; {
			number := random.Uint64N(pages)
			if taken[number/64]&(1<<(number%64)) != 0 {
				continue
			}
			taken[number/64] |= 1 << (number % 64)
			if !yield(number) {
				return
			}
			n--
		}
	}
}

// corpusBytes is small beside any memory that is measured, for it is there twice,
// and much larger than what a compressor looks at together.
const corpusBytes = 1 << 20

var corpus = sync.OnceValue(func() string {
	words := strings.Fields(`the of and to in a is that for it was on with as be by this are or his from at which but
		have an had they you were their one all we can her has there been if more when will would who so no out up into
		them then some could time these two may other its new only my over such our man than first been because most where
		memory page process container node cluster pod checkpoint restore service request answer error value key index
		write read state network address request queue worker leader follower token session customer order price invoice`)
	random := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for text.Len() < corpusBytes {
		// The square favours the first words, as in any language.
		r := random.Float64()
		text.WriteString(words[int(r*r*float64(len(words)))])
		switch random.IntN(12) {
		case 0:
			fmt.Fprintf(&text, " %d", random.IntN(100_000))
		case 1:
			text.WriteString(".\n")
			continue
		}
		text.WriteByte(' ')
	}
	return text.String()[:corpusBytes]
})
