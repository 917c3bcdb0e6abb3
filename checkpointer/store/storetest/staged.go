package storetest

import (
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// Tree is the content of a staging folder: each regular file by its path with
// forward slashes, and each folder by its path with a slash at the end.
type Tree map[string]string

// Write writes the tree into a new folder, and returns it.
func (tree Tree) Write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range tree {
		target := filepath.Join(dir, filepath.FromSlash(name))
		if name[len(name)-1] == '/' {
			check(t, os.MkdirAll(target, 0o700))
			continue
		}
		check(t, os.MkdirAll(filepath.Dir(target), 0o700))
		check(t, os.WriteFile(target, []byte(content), 0o600))
	}
	return dir
}

// ReadTree returns what is below a folder.
func ReadTree(t testing.TB, dir string) Tree {
	t.Helper()
	tree := Tree{}
	root := os.DirFS(dir)
	check(t, fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if entry.IsDir() {
			tree[name+"/"] = ""
			return nil
		}
		content, err := fs.ReadFile(root, name)
		tree[name] = string(content)
		return err
	}))
	return tree
}

// withFolders adds the folders that the tree's files imply, as ReadTree lists them.
func (tree Tree) withFolders() Tree {
	full := Tree{}
	for name, content := range tree {
		full[name] = content
		for parent := filepath.Dir(filepath.Clean(name)); parent != "."; parent = filepath.Dir(parent) {
			full[parent+"/"] = ""
		}
	}
	return full
}

// PageSize is the size of a page in a Memory, in bytes.
const PageSize = 4096

// Memory is a stretch of a process's memory.
type Memory struct {
	Address uint64
	Data    []byte // a multiple of PageSize
	// Absent pages are in the pagemap, but their content is not in the pages
	// image; only the length of Data counts.
	Absent bool
}

// Flags of a pagemap entry.
const (
	flagLazy    = 1 << 1
	flagPresent = 1 << 2
)

// Images returns the pagemap and the pages image that CRIU writes for a memory.
func Images(pagesID uint32, memory ...Memory) (pagemap, pages string) {
	out := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	out = binary.LittleEndian.AppendUint32(out, 0x56084025)
	message := func(fields ...uint64) {
		var m []byte
		for i := 0; i < len(fields); i += 2 {
			m = protowire.AppendTag(m, protowire.Number(fields[i]), protowire.VarintType)
			m = protowire.AppendVarint(m, fields[i+1])
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(m)))
		out = append(out, m...)
	}
	message(1, uint64(pagesID))
	var data []byte
	for _, part := range memory {
		n := uint64(len(part.Data) / PageSize)
		flags := uint64(flagPresent | flagLazy)
		if part.Absent {
			flags = flagLazy
		} else {
			data = append(data, part.Data...)
		}
		message(1, part.Address, 2, n, 4, flags, 5, n)
	}
	return string(out), string(data)
}

// Pages returns n pages that do not compress, drawn from a seed.
func Pages(seed uint64, n int) []byte {
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	data := make([]byte, n*PageSize)
	source.Read(data)
	return data
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
