package store

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// fileID is the random name of a segment, and the salt of every file's key.
type fileID [16]byte

func newFileID() (id fileID) {
	rand.Read(id[:]) // never fails: it ends the program instead
	return id
}

func (id fileID) String() string { return hex.EncodeToString(id[:]) }

// Each file starts in clear with a header:
//
//	kind and version  8 bytes
//	check of the key  8 bytes
//	ID                16 bytes
//	generation        8 bytes, big endian
//	key ID            1 byte of length, then the text
//
// In a manifest it is authenticated; that of a segment must be what the
// manifest says.
type header struct {
	kind       [8]byte
	check      [8]byte
	id         fileID
	generation int64
	keyID      string
}

var (
	segmentKind  = [8]byte{'L', 'B', 'S', 'E', 'G', 0, 0, formatVersion}
	manifestKind = [8]byte{'L', 'B', 'M', 'A', 'N', 0, 0, formatVersion}
)

// formatVersion is the version of the files. It grows with each change that
// older programs cannot read.
const formatVersion = 2

// wrongVersion means that a file is one of ours, but of another version.
type wrongVersion byte

func (v wrongVersion) Error() string {
	if v < formatVersion {
		return fmt.Sprintf("it has format %d, and this program reads %d: the next collection removes it, and the pod's next checkpoint is a full one",
			byte(v), formatVersion)
	}
	return fmt.Sprintf("it has format %d, and this program reads %d: run the lifeboat-checkpointer that wrote it, or a newer one",
		byte(v), formatVersion)
}

const (
	headerFixed = 8 + 8 + 16 + 8 + 1
	maxKeyID    = 63
	maxHeader   = headerFixed + maxKeyID
)

func (h header) append(buf []byte) []byte {
	buf = append(buf, h.kind[:]...)
	buf = append(buf, h.check[:]...)
	buf = append(buf, h.id[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(h.generation))
	buf = append(buf, byte(len(h.keyID)))
	return append(buf, h.keyID...)
}

func (h header) size() int64 { return int64(headerFixed + len(h.keyID)) }

var errShortHeader = errors.New("too short for its header")

// parseHeader reads the header that data starts with, and returns what follows.
func parseHeader(kind [8]byte, data []byte) (h header, rest []byte, err error) {
	if len(data) < headerFixed {
		return header{}, nil, errShortHeader
	}
	if bytes.Equal(data[:7], kind[:7]) && data[7] != kind[7] {
		return header{}, nil, wrongVersion(data[7])
	}
	if !bytes.Equal(data[:8], kind[:]) {
		return header{}, nil, fmt.Errorf("starts with % x, not with % x", data[:8], kind[:])
	}
	h.kind = kind
	copy(h.check[:], data[8:])
	copy(h.id[:], data[16:])
	generation := binary.BigEndian.Uint64(data[32:])
	if generation == 0 || generation > maxGeneration {
		return header{}, nil, fmt.Errorf("generation %d is out of range", generation)
	}
	h.generation = int64(generation)
	n := int(data[40])
	rest = data[headerFixed:]
	if n > maxKeyID {
		return header{}, nil, fmt.Errorf("key ID of %d bytes, more than %d", n, maxKeyID)
	}
	if len(rest) < n {
		return header{}, nil, errShortHeader
	}
	h.keyID = string(rest[:n])
	if err := validateKeyID(h.keyID); err != nil {
		return header{}, nil, err
	}
	return h, rest[n:], nil
}

func validateKeyID(id string) error {
	if id == "" || len(id) > maxKeyID {
		return fmt.Errorf("key ID of %d bytes: use 1 to %d", len(id), maxKeyID)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("key ID %q has characters other than printable ASCII", id)
		}
	}
	return nil
}

// maxGeneration leaves room for arithmetic.
const maxGeneration = 1 << 62

// The names of files, relative to the pod's folder.
const (
	segmentsFolder  = "segments"
	manifestsFolder = "manifests"
	latestName      = "latest"
	temporarySuffix = ".tmp"
)

var (
	segmentNameForm  = regexp.MustCompile(`^segments/([0-9a-f]{32})\.seg$`)
	manifestNameForm = regexp.MustCompile(`^manifests/([1-9][0-9]{0,18})\.man$`)
)

func segmentName(id fileID) string { return segmentsFolder + "/" + id.String() + ".seg" }
func manifestName(number int64) string {
	return manifestsFolder + "/" + strconv.FormatInt(number, 10) + ".man"
}

func parseSegmentName(name string) (id fileID, ok bool) {
	match := segmentNameForm.FindStringSubmatch(name)
	if match == nil {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(match[1]))
	return id, err == nil
}

func parseManifestName(name string) (number int64, ok bool) {
	match := manifestNameForm.FindStringSubmatch(name)
	if match == nil {
		return 0, false
	}
	number, err := strconv.ParseInt(match[1], 10, 64)
	return number, err == nil && number <= maxGeneration
}
