package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// run is a range of memory whose pages follow each other in a pages image.
type run struct {
	address uint64
	pages   uint64
}

// CRIU's image format: two magic numbers, then messages that each follow their
// length; the first is a pagemap_head, the others are pagemap_entry.
const (
	imageMagic   = 0x54564319
	pagemapMagic = 0x56084025

	pagePresent = 1 << 2 // the flag of an entry whose pages are in the pages image

	headPagesID      = 1
	entryAddress     = 1
	entryPagesCompat = 2
	entryInParent    = 3
	entryFlags       = 4
	entryPages       = 5
)

// parsePagemap returns which pages image a pagemap image describes, and the
// memory whose pages that image holds, in the image's order.
func parsePagemap(data []byte) (pagesID uint64, runs []run, err error) {
	if len(data) < 8 || binary.LittleEndian.Uint32(data) != imageMagic || binary.LittleEndian.Uint32(data[4:]) != pagemapMagic {
		return 0, nil, errors.New("not a pagemap image")
	}
	data = data[8:]
	for first := true; len(data) > 0; first = false {
		if len(data) < 4 {
			return 0, nil, errors.New("cut short in a length")
		}
		size := uint64(binary.LittleEndian.Uint32(data))
		data = data[4:]
		if size > uint64(len(data)) {
			return 0, nil, fmt.Errorf("entry of %d bytes, but only %d are left", size, len(data))
		}
		fields, err := parseNumbers(data[:size])
		if err != nil {
			return 0, nil, err
		}
		data = data[size:]
		if first {
			id, ok := fields[headPagesID]
			if !ok {
				return 0, nil, errors.New("head without a pages ID")
			}
			pagesID = id
			continue
		}
		r := run{address: fields[entryAddress], pages: fields[entryPages]}
		if r.pages == 0 {
			r.pages = fields[entryPagesCompat]
		}
		// Images of old versions have no flags: what is not in the parent is present.
		flags, hasFlags := fields[entryFlags]
		present := flags&pagePresent != 0
		if !hasFlags {
			present = fields[entryInParent] == 0
		}
		if present && r.pages > 0 {
			runs = append(runs, r)
		}
	}
	return pagesID, runs, nil
}

// parseNumbers returns the low-numbered varint fields of a message, by number.
func parseNumbers(message []byte) (map[protowire.Number]uint64, error) {
	fields := make(map[protowire.Number]uint64, 5)
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		if kind == protowire.VarintType {
			value, n := protowire.ConsumeVarint(message)
			if n < 0 {
				return nil, protowire.ParseError(n)
			}
			fields[number] = value
			message = message[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(number, kind, message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return fields, nil
}

// cutByAddress returns the lengths that a pages image of the given size is cut
// into, so that no chunk reaches over a multiple of chunkSize of the process's
// addresses: pages that merely moved within the image keep their chunks. It
// returns false when runs do not describe an image of that size.
func cutByAddress(runs []run, size int64) (lengths []uint32, ok bool) {
	var pages uint64
	for _, r := range runs {
		if r.pages > math.MaxInt64/chunkSize-pages {
			return nil, false
		}
		pages += r.pages
	}
	if pages == 0 || uint64(size)%pages != 0 {
		return nil, false
	}
	// The image does not say how large a page is; its size does.
	page := uint64(size) / pages
	if page < 4096 || page > chunkSize || page&(page-1) != 0 {
		return nil, false
	}
	var window, length uint64
	for _, r := range runs {
		if r.address%page != 0 || r.address > math.MaxUint64-r.pages*page {
			return nil, false
		}
		for address, left := r.address, r.pages*page; left > 0; {
			if w := address / chunkSize; length > 0 && (w != window || length >= chunkSize) {
				lengths = append(lengths, uint32(length))
				length = 0
			}
			window = address / chunkSize
			take := min(left, chunkSize-address%chunkSize, chunkSize-length)
			length += take
			address += take
			left -= take
		}
	}
	return append(lengths, uint32(length)), true
}

// cutEvenly cuts a file into chunks of chunkSize.
func cutEvenly(size int64) (lengths []uint32) {
	for ; size > 0; size -= chunkSize {
		lengths = append(lengths, uint32(min(size, chunkSize)))
	}
	return lengths
}

// chunkSize is the most that one chunk holds, in bytes.
const chunkSize = 64 << 10
