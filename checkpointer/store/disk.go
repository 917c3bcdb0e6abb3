package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// disk makes every change that the store makes to its folder, one step at a
// time, so that tests can stop after any of them. Paths are relative to the
// store's folder, and cannot leave it.
type disk struct {
	root *os.Root
	// before is called ahead of each step when it is set; its error is the step's.
	before func(step) error
	// readOnly refuses every step.
	readOnly bool
}

// step is one change, or one request to make changes last.
type step struct {
	kind stepKind
	path string
	to   string // of a rename
	data []byte // of a write; only valid during the call
}

type stepKind string

const (
	stepMkdir      stepKind = "mkdir"
	stepCreate     stepKind = "create"
	stepWrite      stepKind = "write"
	stepSync       stepKind = "sync"
	stepRename     stepKind = "rename"
	stepSyncFolder stepKind = "sync folder"
	stepRemove     stepKind = "remove"
)

func (d *disk) announce(s step) error {
	if d.readOnly {
		return ErrReadOnly
	}
	if d.before == nil {
		return nil
	}
	return explain(d.before(s))
}

// mkdirAll makes a folder and those above it, and makes them last.
func (d *disk) mkdirAll(folder string) error {
	parent := "."
	for name := range strings.SplitSeq(folder, "/") {
		current := path.Join(parent, name)
		if _, err := d.root.Lstat(current); errors.Is(err, fs.ErrNotExist) {
			if err := d.announce(step{kind: stepMkdir, path: current}); err != nil {
				return err
			}
			if err := d.root.Mkdir(current, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return explain(err)
			}
			if err := d.syncFolder(parent); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		parent = current
	}
	return nil
}

// create opens a new file for writing, in place of what an interrupted attempt left.
func (d *disk) create(name string) (*diskFile, error) {
	if err := d.announce(step{kind: stepCreate, path: name}); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, explain(err)
	}
	return &diskFile{disk: d, name: name, file: f}, nil
}

func (d *disk) rename(from, to string) error {
	if err := d.announce(step{kind: stepRename, path: from, to: to}); err != nil {
		return err
	}
	return explain(d.root.Rename(from, to))
}

func (d *disk) remove(name string) error {
	if err := d.announce(step{kind: stepRemove, path: name}); err != nil {
		return err
	}
	return d.root.Remove(name)
}

// syncFolder makes the names in a folder last.
func (d *disk) syncFolder(folder string) error {
	if err := d.announce(step{kind: stepSyncFolder, path: folder}); err != nil {
		return err
	}
	f, err := d.root.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return explain(f.Sync())
}

// writeDurably puts a small file in place: it is there in full or not at all.
func (d *disk) writeDurably(name string, data []byte) (err error) {
	temporary := name + temporarySuffix
	f, err := d.create(temporary)
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if err != nil && !renamed {
			err = errors.Join(err, d.remove(temporary))
		}
	}()
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.finish(); err != nil {
		return err
	}
	if err := d.rename(temporary, name); err != nil {
		return err
	}
	renamed = true
	return d.syncFolder(path.Dir(name))
}

// names lists a folder. A folder that is not there is empty.
func (d *disk) names(folder string) ([]string, error) {
	f, err := d.root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// size returns the size of a regular file.
func (d *disk) size(name string) (int64, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", name)
	}
	return info.Size(), nil
}

// read returns the content of a file of at most limit bytes.
func (d *disk) read(name string, limit int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// diskFile is a file that is being written.
type diskFile struct {
	disk *disk
	name string
	file *os.File
}

func (f *diskFile) Write(data []byte) (int, error) {
	if err := f.disk.announce(step{kind: stepWrite, path: f.name, data: data}); err != nil {
		return 0, err
	}
	n, err := f.file.Write(data)
	return n, explain(err)
}

// finish makes the file's content last, and closes it.
func (f *diskFile) finish() error {
	err := f.disk.announce(step{kind: stepSync, path: f.name})
	if err == nil {
		err = explain(f.file.Sync())
	}
	return errors.Join(err, f.file.Close())
}

func (f *diskFile) Close() error { return f.file.Close() }

// explain marks the errors of a file system without space for the store.
func explain(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w below the store: free space, or give the store a smaller budget: %w", ErrDiskFull, err)
	}
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
