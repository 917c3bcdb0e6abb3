package store

import (
	"archive/tar"
	"hash/fnv"
	"io"
	"os"
)

const (
	tarExtension = ".tar"
	tarBlock     = 512
	// entriesTogether is how many entries of small files share a run of chunks, on average.
	entriesTogether = 8
)

// cutByEntries returns the lengths that a tar file of the given size is cut into, so that
// a file in it that is added, removed or resized moves few of the cuts between the others:
// those that merely moved keep their chunks. What is no tar file is cut evenly from there on.
func cutByEntries(file io.ReadSeeker, size int64) (lengths []uint32) {
	var from int64
	cut := func(at int64) {
		if at > from && at <= size {
			lengths = append(lengths, cutEvenly(at-from)...)
			from = at
		}
	}
	entries := tar.NewReader(file)
	for start := int64(0); ; {
		header, err := entries.Next()
		if err != nil {
			break
		}
		// A Reader reads no further than to an entry's content.
		content, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			break
		}
		end := content + (header.Size+tarBlock-1)/tarBlock*tarBlock
		if begins(header.Name) {
			cut(start)
		}
		if header.Size >= chunkSize {
			cut(content)
			cut(end)
		}
		start = end
	}
	cut(size)
	return lengths
}

// begins says whether a chunk begins with the entry of a name: with some of them, and with
// the same ones each time.
func begins(name string) bool {
	h := fnv.New32a()
	_, _ = io.WriteString(h, name) // it never fails
	return h.Sum32()%entriesTogether == 0
}

// cutArchive is cutByEntries of a staged file. One that cannot be read is told of where
// its content is read.
func cutArchive(staged *os.Root, f plannedFile) []uint32 {
	file, err := staged.Open(f.path)
	if err != nil {
		return cutEvenly(f.size)
	}
	defer file.Close()
	return cutByEntries(file, f.size)
}
