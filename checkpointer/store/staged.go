package store

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
)

// plannedFile is a staged file, and the lengths that it is cut into.
type plannedFile struct {
	path    string
	folder  bool
	size    int64
	lengths []uint32
	// kept is what is taken from the base, ascending: lengths leaves it out.
	kept []keptParts
}

var (
	pagemapForm = regexp.MustCompile(`^pagemap-.*\.img$`)
)

// maxPagemap is the largest pagemap image that is looked at, in bytes.
const maxPagemap = 256 << 20

// plan lists the files and folders of a staged generation, folders before what
// they hold, and decides where each file is cut.
func plan(staged *os.Root) ([]plannedFile, error) {
	var files []plannedFile
	err := fs.WalkDir(staged.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f := plannedFile{path: name}
		switch {
		case len(name) > maxPath:
			return fmt.Errorf("path of %d bytes, more than %d", len(name), maxPath)
		case info.IsDir():
			f.folder = true
		case info.Mode().IsRegular():
			f.size = info.Size()
		default:
			return fmt.Errorf("%s is neither a regular file nor a folder", name)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	memory := memoryRuns(staged, files)
	for i := range files {
		f := &files[i]
		if runs, ok := memory[f.path]; ok {
			if f.lengths, ok = cutByAddress(runs, f.size); ok {
				continue
			}
		}
		if path.Ext(f.path) == tarExtension {
			f.lengths = cutArchive(staged, *f)
			continue
		}
		f.lengths = cutEvenly(f.size)
	}
	return files, nil
}

// memoryRuns maps pages images to the memory that their pagemap image says is
// in them. What cannot be read, or is described twice, is left out: it is then
// cut like any other file, which costs deduplication and nothing else.
func memoryRuns(staged *os.Root, files []plannedFile) map[string][]run {
	memory := map[string][]run{}
	ambiguous := map[string]bool{}
	for _, f := range files {
		folder, base := path.Split(f.path)
		if f.folder || f.size > maxPagemap || !pagemapForm.MatchString(base) {
			continue
		}
		data, err := staged.ReadFile(f.path)
		if err != nil {
			continue
		}
		id, runs, err := parsePagemap(data)
		if err != nil {
			continue
		}
		image := fmt.Sprintf("%spages-%d.img", folder, id)
		if _, twice := memory[image]; twice {
			ambiguous[image] = true
		}
		memory[image] = runs
	}
	for image := range ambiguous {
		delete(memory, image)
	}
	return memory
}
