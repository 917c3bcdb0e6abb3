package criu

// filesBase is what is known of the files in the generation that was stored last.
type filesBase struct {
	// until is the moment of that generation's last look for files that can change
	// without a trace.
	until moment
	// saved are the files whose content it has, if no change since could have left them
	// with the stamp that they have here.
	saved map[inode]savedFile
	// shared are its images of shared memory, by inode.
	shared map[uint64]sharedBase
}

// savedFile is where a generation has a file's content: at an offset of an archive.
type savedFile struct {
	stamp   stamp
	archive string // relative to the generation's folder
	offset  int64
}

// KeptFile is a stretch of a file of a Dump that is as in the Dump's base. The file has a
// hole in its place.
type KeptFile struct {
	// Path is relative to the dump's folder, as BasePath is to the base's.
	Path, BasePath string
	// Offset, BaseOffset and Length are in bytes.
	Offset, BaseOffset, Length int64
}

// keeps is whether the base has a file's content, as far as is known now.
func (f *filesAhead) keeps(s stamp) bool {
	return f.base.saved[s.inode].stamp == s && !f.unstamped[s.inode]
}

// since forgets the base when the clock was set back after it.
func (b *filesBase) since(now moment) {
	if b.until.stepped(now) {
		*b = filesBase{}
	}
}

// keep leaves a file's content to the base, if it is there as it is now. merged is the file
// as the container sees it, offset its place in the archive.
func (a *archive) keep(now stamp, merged string, offset int64) bool {
	if a.ahead.distrusted != nil || !a.ahead.keeps(now) || a.unstampedAt(merged) {
		return false
	}
	saved := a.ahead.base.saved[now.inode]
	a.kept = append(a.kept, KeptFile{
		Path: a.tree.name, Offset: offset, Length: (now.size + tarBlock - 1) / tarBlock * tarBlock,
		BasePath: saved.archive, BaseOffset: saved.offset,
	})
	a.save(now, offset)
	return true
}

// save notes that the archive has a file's content, which any later change gives another
// stamp. Only what the store keeps apart from other files can be kept later.
func (a *archive) save(now stamp, offset int64) {
	if now.size >= ownBytes {
		a.saved[now.inode] = savedFile{now, a.tree.name, offset}
	}
}
