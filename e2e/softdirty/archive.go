package main

import (
	"bytes"
	"fmt"
	"os"
)

// entry is an executable file of an archive, from a file or with its content.
type entry struct{ name, from, content string }

// writeArchive writes a cpio archive of the kind that Linux takes as its initial
// file system ("newc").
func writeArchive(path string, entries []entry) error {
	var archive bytes.Buffer
	const executable = 0o100755
	for i, e := range entries {
		content := []byte(e.content)
		if e.from != "" {
			var err error
			if content, err = os.ReadFile(e.from); err != nil {
				return err
			}
		}
		add(&archive, i+1, e.name, executable, content)
	}
	add(&archive, 0, "TRAILER!!!", 0, nil)
	return os.WriteFile(path, archive.Bytes(), 0o600)
}

func add(archive *bytes.Buffer, inode int, name string, mode int, content []byte) {
	const links = 1
	fields := []int{inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0}
	archive.WriteString("070701")
	for _, field := range fields {
		fmt.Fprintf(archive, "%08x", field)
	}
	archive.WriteString(name + "\x00")
	align(archive)
	archive.Write(content)
	align(archive)
}

// align fills up to a multiple of 4 bytes.
func align(archive *bytes.Buffer) {
	for archive.Len()%4 != 0 {
		archive.WriteByte(0)
	}
}
