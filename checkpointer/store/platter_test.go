package store

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// recorder takes down every step that a store makes.
type recorder struct {
	steps []step
}

func (r *recorder) before(s step) error {
	s.data = slices.Clone(s.data)
	r.steps = append(r.steps, s)
	return nil
}

// platter is a model of a disk with a write-back cache. A file's content lasts
// from its sync on; a name that was made, changed or removed lasts from the sync of
// its folder on. Before that, each may or may not have reached the disk, but
// changes of one folder reach it in their order.
type platter struct {
	folders map[string]*modelFolder
}

type modelFolder struct {
	entries map[string]*modelFile // as on the disk; a folder has a nil file
	pending []func(map[string]*modelFile)
	live    map[string]*modelFile // as a process sees it
}

type modelFile struct {
	content []byte
	synced  int // bytes of content that last
}

func newPlatter() *platter {
	return &platter{folders: map[string]*modelFolder{".": {entries: map[string]*modelFile{}, live: map[string]*modelFile{}}}}
}

func (p *platter) apply(s step) {
	folder := p.folders[path.Dir(s.path)]
	base := path.Base(s.path)
	change := func(f func(map[string]*modelFile)) {
		f(folder.live)
		folder.pending = append(folder.pending, f)
	}
	switch s.kind {
	case stepMkdir:
		p.folders[s.path] = &modelFolder{entries: map[string]*modelFile{}, live: map[string]*modelFile{}}
		change(func(m map[string]*modelFile) { m[base] = nil })
	case stepCreate:
		f := &modelFile{}
		change(func(m map[string]*modelFile) { m[base] = f })
	case stepWrite:
		f := folder.live[base]
		f.content = append(f.content, s.data...)
	case stepSync:
		f := folder.live[base]
		f.synced = len(f.content)
	case stepRename:
		f, to := folder.live[base], path.Base(s.to)
		change(func(m map[string]*modelFile) {
			delete(m, base)
			m[to] = f
		})
	case stepSyncFolder:
		own := p.folders[s.path]
		for _, f := range own.pending {
			f(own.entries)
		}
		own.pending = nil
	case stepRemove:
		change(func(m map[string]*modelFile) { delete(m, base) })
	}
}

// crash writes what is on the disk after a power cut into a real folder. Of what
// was not made to last, draw decides what is there.
func (p *platter) crash(dir string, draw func(label string, most int) int) error {
	var write func(name string, entries map[string]*modelFile) error
	write = func(name string, entries map[string]*modelFile) error {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
		for _, base := range slices.Sorted(maps.Keys(entries)) {
			full, f := path.Join(name, base), entries[base]
			if f == nil {
				if err := write(full, p.survivors(full, draw)); err != nil {
					return err
				}
				continue
			}
			n := f.synced + draw("unsynced bytes of "+full, len(f.content)-f.synced)
			if err := os.WriteFile(filepath.Join(dir, full), f.content[:n], 0o600); err != nil {
				return err
			}
		}
		return nil
	}
	return write(".", p.survivors(".", draw))
}

func (p *platter) survivors(name string, draw func(string, int) int) map[string]*modelFile {
	folder := p.folders[name]
	entries := maps.Clone(folder.entries)
	for _, f := range folder.pending[:draw("unsynced names in "+name, len(folder.pending))] {
		f(entries)
	}
	return entries
}
