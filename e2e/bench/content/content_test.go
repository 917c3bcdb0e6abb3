package content

import (
	"bytes"
	"compress/flate"
	"slices"
	"testing"
)

func memory(k Kind, pages int) []byte {
	all := make([]byte, pages*PageSize)
	for i := range pages {
		k.Fill(all[i*PageSize:][:PageSize], uint64(i), 0)
	}
	return all
}

func TestKindsCompressAsTheyShould(t *testing.T) {
	for kind, want := range map[Kind]struct{ least, most float64 }{
		Random: {0.99, 1.01},
		Text:   {0.20, 0.45},
		Zeros:  {0, 0.01},
	} {
		all := memory(kind, 64)
		var packed bytes.Buffer
		w, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(all)
		w.Close()
		if ratio := float64(packed.Len()) / float64(len(all)); ratio < want.least || ratio > want.most {
			t.Errorf("%s compresses to %.3f of its size, want %v", kind, ratio, want)
		}
	}
}

func TestEveryVersionOfAPageIsAnotherOne(t *testing.T) {
	for _, kind := range []Kind{Random, Text} {
		var seen [][]byte
		for number := range uint64(8) {
			for version := range uint64(8) {
				page := make([]byte, PageSize)
				kind.Fill(page, number, version)
				again := bytes.Repeat([]byte{1}, PageSize)
				kind.Fill(again, number, version)
				if !bytes.Equal(page, again) {
					t.Errorf("%s: page %d in version %d is not always the same", kind, number, version)
				}
				if slices.ContainsFunc(seen, func(other []byte) bool { return bytes.Equal(page, other) }) {
					t.Errorf("%s: page %d in version %d is as another one", kind, number, version)
				}
				seen = append(seen, page)
			}
		}
	}
}

func TestSample(t *testing.T) {
	for _, count := range []uint64{0, 1, 100, 1000} {
		sample := slices.Collect(Sample(7, 1000, count))
		if !slices.Equal(sample, slices.Collect(Sample(7, 1000, count))) {
			t.Error("the same seed gives another sample")
		}
		slices.Sort(sample)
		if n := len(slices.Compact(sample)); uint64(n) != count {
			t.Errorf("%d different pages, want %d", n, count)
		}
		if count > 0 && sample[len(sample)-1] >= 1000 {
			t.Errorf("page %d of 1000", sample[len(sample)-1])
		}
	}
}
