package criu

import (
	"archive/tar"
	"bytes"
	"os"
)

// tarFile is a tar file that is written with room for contents that come later.
type tarFile struct {
	file *os.File
	// at is where the headers belong that are not written yet.
	at      int64
	headers bytes.Buffer
}

const (
	tarBlock = 512
	// headersAtOnce is how many bytes of headers are written at once.
	headersAtOnce = 256 << 10
)

// header writes an entry's header.
func (f *tarFile) header(h *tar.Header) error {
	if f.headers.Len() >= headersAtOnce {
		if err := f.flush(); err != nil {
			return err
		}
	}
	// A tar.Writer wants the content next. So each one writes a single header.
	return tar.NewWriter(&f.headers).WriteHeader(h)
}

// skip leaves room for the content of the entry whose header was written last, and
// returns where it is. Content that is not written there is all zeros.
func (f *tarFile) skip(size int64) (offset int64, err error) {
	if size == 0 {
		return f.at, nil
	}
	if err := f.flush(); err != nil {
		return 0, err
	}
	offset = f.at
	f.at += (size + tarBlock - 1) / tarBlock * tarBlock
	return offset, nil
}

func (f *tarFile) flush() error {
	n, err := f.file.WriteAt(f.headers.Bytes(), f.at)
	f.at += int64(n)
	f.headers.Reset()
	return err
}

// end writes what ends the file: two blocks of zeros.
func (f *tarFile) end() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.file.Truncate(f.at + 2*tarBlock)
}
