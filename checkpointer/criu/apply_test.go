package criu

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// entry is one entry of a tar file, with its content.
type entry struct {
	tar.Header
	content string
}

func archiveOf(t testing.TB, entries ...entry) *tar.Reader {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		e.Size, e.Format = int64(len(e.content)), tar.FormatPAX
		e.Uid, e.Gid = os.Getuid(), os.Getgid()
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tar.NewReader(&buffer)
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, content}
}
func folder(name string) entry { return entry{tar.Header{Typeflag: tar.TypeDir, Name: name}, ""} }
func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}
func hardlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}
func whiteout(name string) entry { return entry{tar.Header{Typeflag: tar.TypeChar, Name: name}, ""} }
func opaque(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, PAXRecords: map[string]string{opaqueRecord: "y"}}, ""}
}

// TestUnpackStaysInside unpacks what a hostile checkpoint could hold beside a
// folder that nothing may touch.
func TestUnpackStaysInside(t *testing.T) {
	tests := map[string]struct {
		entries []entry
		refused bool
	}{
		"name climbs out":            {[]entry{file("../outside/file", "x")}, true},
		"absolute name":              {[]entry{file("/outside/file", "x")}, true},
		"through a link":             {[]entry{symlink("link", "../outside"), file("link/file", "x")}, true},
		"through an absolute link":   {[]entry{symlink("link", "OUTSIDE"), file("link/file", "x")}, true},
		"folder through a link":      {[]entry{symlink("link", "../outside"), folder("link/folder")}, true},
		"opaque link":                {[]entry{symlink("link", "../outside"), opaque("link")}, false},
		"whiteout through a link":    {[]entry{symlink("link", "../outside"), whiteout("link/precious")}, true},
		"link of links":              {[]entry{symlink("a", ".."), symlink("b", "a/outside"), file("b/file", "x")}, true},
		"file over a link":           {[]entry{symlink("link", "../outside/precious"), file("link", "x")}, false},
		"hard link to the outside":   {[]entry{hardlink("link", "../outside/precious")}, true},
		"hard link through a link":   {[]entry{symlink("dir", "../outside"), hardlink("link", "dir/precious"), file("link", "x")}, true},
		"hard link of a link":        {[]entry{symlink("sym", "../outside/precious"), hardlink("link", "sym")}, false},
		"folder itself is a link":    {[]entry{symlink(".", "../outside")}, true},
		"folder itself is removed":   {[]entry{whiteout(".")}, true},
		"time and mode over a link":  {[]entry{folder("d"), symlink("d/x", "../../outside/precious"), folder("d")}, false},
		"device through a link":      {[]entry{symlink("link", "../outside"), {tar.Header{Typeflag: tar.TypeFifo, Name: "link/fifo"}, ""}}, true},
		"unknown kind":               {[]entry{{tar.Header{Typeflag: 'Z', Name: "x"}, ""}}, true},
		"link stays where it points": {[]entry{symlink("link", "/etc/passwd")}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			inside, outside := filepath.Join(base, "inside"), filepath.Join(base, "outside")
			for _, dir := range []string{inside, outside} {
				if err := os.Mkdir(dir, 0o711); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := describe(t, outside)
			for i, e := range test.entries {
				test.entries[i].Linkname = strings.ReplaceAll(e.Linkname, "OUTSIDE", outside)
			}
			root, err := os.OpenRoot(inside)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			err = unpack(context.Background(), archiveOf(t, test.entries...), root)
			if (err != nil) != test.refused {
				t.Errorf("unpack: %v; refused should be %v", err, test.refused)
			}
			if diff := cmp.Diff(before, describe(t, outside)); diff != "" {
				t.Errorf("the outside has changed:\n%s", diff)
			}
		})
	}
}

// describe lists all below a folder with what must not change.
func describe(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(name, &stat); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d", strings.TrimPrefix(name, root), stat.Mode, stat.Uid, stat.Gid, stat.Mtim.Nano())
		switch {
		case d.Type().IsRegular():
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %q", stat.Nlink, content)
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%s -> %s", strings.TrimPrefix(name, root), target)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestUnpackChangesWhatIsThere(t *testing.T) {
	tests := map[string]struct {
		entries []entry
		want    []string // the names that are left
	}{
		"nothing":                  {nil, []string{"a", "a/one", "a/two", "b"}},
		"whiteout of a file":       {[]entry{whiteout("b")}, []string{"a", "a/one", "a/two"}},
		"whiteout of a folder":     {[]entry{whiteout("a")}, []string{"b"}},
		"whiteout of nothing":      {[]entry{whiteout("c")}, []string{"a", "a/one", "a/two", "b"}},
		"folder is kept":           {[]entry{folder("a"), file("a/three", "")}, []string{"a", "a/one", "a/three", "a/two", "b"}},
		"opaque folder is not":     {[]entry{opaque("a"), file("a/three", "")}, []string{"a", "a/three", "b"}},
		"folder instead of file":   {[]entry{folder("b"), file("b/in", "")}, []string{"a", "a/one", "a/two", "b", "b/in"}},
		"file instead of folder":   {[]entry{file("a", "")}, []string{"a", "b"}},
		"link instead of folder":   {[]entry{symlink("a", "b")}, []string{"a", "b"}},
		"folder instead of link":   {[]entry{symlink("c", "a"), folder("c"), file("c/in", "")}, []string{"a", "a/one", "a/two", "b", "c", "c/in"}},
		"hard link over a file":    {[]entry{hardlink("b", "a/one")}, []string{"a", "a/one", "a/two", "b"}},
		"opaque root":              {[]entry{opaque("./")}, nil},
		"opaque folder that's new": {[]entry{opaque("n")}, []string{"a", "a/one", "a/two", "b", "n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"a/one", "a/two", "b"} {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := unpack(context.Background(), archiveOf(t, test.entries...), root); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, line := range describe(t, dir)[1:] {
				names = append(names, strings.TrimPrefix(strings.Fields(line)[0], "/"))
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnpackOfATornArchiveFails(t *testing.T) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1000, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 1000))
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = unpack(context.Background(), tar.NewReader(bytes.NewReader(buffer.Bytes()[:900])), root)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unpack = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// TestCaptureAndApplyKeepATree captures arbitrary trees and unpacks them again.
func TestCaptureAndApplyKeepATree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := t.TempDir()
		from, to := filepath.Join(base, "from"), filepath.Join(base, "to")
		for _, dir := range []string{from, to} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				rt.Fatal(err)
			}
		}
		makeTree(rt, from)
		if err := os.WriteFile(filepath.Join(to, "leftover"), nil, 0o600); err != nil {
			rt.Fatal(err)
		}
		tarFile := filepath.Join(base, "tree.tar")
		c := &capturer{copier: copier{proceed: func() error { return nil }}}
		if err := c.captureTree(tree{file: tarFile, folder: from, merged: from}); err != nil {
			rt.Fatal(err)
		}
		if err := applyTree(context.Background(), tarFile, to, true); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(describe(t, from), describe(t, to)); diff != "" {
			rt.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// makeTree makes files of every kind in a folder.
func makeTree(rt *rapid.T, root string) {
	name := rapid.StringMatching(`[a-zé ]{1,3}|long-name-[a-z]{120}`)
	folders, files := []string{root}, []string(nil)
	made := []string{}
	for range rapid.IntRange(0, 12).Draw(rt, "entries") {
		path := filepath.Join(rapid.SampledFrom(folders).Draw(rt, "folder"), name.Draw(rt, "name"))
		if slices.Contains(made, path) {
			continue
		}
		var err error
		switch kind := rapid.SampledFrom([]string{"file", "folder", "symlink", "hardlink", "fifo"}).Draw(rt, "kind"); kind {
		case "file":
			mode := os.FileMode(rapid.Uint32Range(0, 0o777).Draw(rt, "mode"))
			err = os.WriteFile(path, rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(rt, "content"), 0o600)
			err = errors.Join(err, os.Chown(path, rapid.IntRange(0, 70000).Draw(rt, "uid"), 5), os.Chmod(path, mode))
			files = append(files, path)
		case "folder":
			err = os.Mkdir(path, 0o700)
			folders = append(folders, path)
		case "symlink":
			err = os.Symlink(rapid.SampledFrom([]string{"/etc/passwd", "..", "nowhere"}).Draw(rt, "target"), path)
		case "hardlink":
			if len(files) == 0 {
				continue
			}
			err = os.Link(rapid.SampledFrom(files).Draw(rt, "of"), path)
		case "fifo":
			err = unix.Mkfifo(path, 0o640)
		}
		if err != nil {
			rt.Fatal(err)
		}
		made = append(made, path)
	}
}

func TestApplyFilesRefusesWhatIsNoName(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "/a", "../x"} {
		if err := newEngine(t).ApplyFiles(context.Background(), t.TempDir(), name, t.TempDir(), nil, ""); err == nil {
			t.Errorf("ApplyFiles with the container name %q succeeded", name)
		}
	}
}
