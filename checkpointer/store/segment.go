package store

import (
	"crypto/cipher"
	"errors"
	"io/fs"
	"path"
)

// segmentWriter writes the new chunks of one generation into as many segments
// as they need. They stay temporary files until place is called.
type segmentWriter struct {
	store        *Store
	key          Key
	generation   int64
	keyID        string
	namespaceKey [32]byte

	done    []segment
	written int64 // bytes of all segments, also those that are not done
	placed  int   // how many of done were renamed

	// The segment that is being written.
	open   *diskFile
	id     fileID
	aead   cipher.AEAD
	size   int64
	count  uint64
	buffer []byte
	scrap  []byte
}

// writeSize is how much is written at once, in bytes.
const writeSize = 1 << 20

// append encrypts a chunk and writes it. It returns where it is: the segment by
// its index into done, where it is from finish on.
func (w *segmentWriter) append(payload []byte) (chunk, error) {
	if w.open == nil {
		if err := w.begin(); err != nil {
			return chunk{}, err
		}
	}
	stored := len(payload) + sealOverhead
	if err := w.store.reserve(w.key, int64(stored)); err != nil {
		return chunk{}, err
	}
	w.written += int64(stored)
	at := chunk{segment: int32(len(w.done)), stored: uint32(stored), offset: w.size, index: w.count}
	n := nonce(w.count)
	w.scrap = chunkIdentity(w.scrap[:0], w.key, w.generation, w.count)
	w.buffer = w.aead.Seal(w.buffer, n[:], payload, w.scrap)
	w.count++
	w.size += int64(stored)
	if len(w.buffer) >= writeSize {
		if err := w.flush(); err != nil {
			return chunk{}, err
		}
	}
	if w.size >= w.store.options.SegmentBytes {
		return at, w.finish()
	}
	return at, nil
}

func (w *segmentWriter) begin() (err error) {
	h := header{kind: segmentKind, check: keyCheck(w.namespaceKey), id: newFileID(), generation: w.generation, keyID: w.keyID}
	if err := w.store.reserve(w.key, h.size()); err != nil {
		return err
	}
	w.written += h.size()
	w.id, w.size, w.count = h.id, h.size(), 0
	w.aead = newFileCipher(w.namespaceKey, h.id, segmentKeyInfo)
	w.buffer = h.append(w.buffer[:0])
	w.open, err = w.store.disk.create(w.temporary(w.id))
	return err
}

func (w *segmentWriter) temporary(id fileID) string {
	return w.key.path(segmentName(id) + temporarySuffix)
}

func (w *segmentWriter) flush() error {
	_, err := w.open.Write(w.buffer)
	w.buffer = w.buffer[:0]
	return err
}

// finish makes the open segment last, if there is one.
func (w *segmentWriter) finish() error {
	if w.open == nil {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.done = append(w.done, segment{id: w.id, generation: w.generation, size: w.size})
	open := w.open
	w.open = nil
	return open.finish()
}

// place gives all segments their names, and makes the names last.
func (w *segmentWriter) place() error {
	for _, seg := range w.done {
		if err := w.store.disk.rename(w.temporary(seg.id), w.key.path(segmentName(seg.id))); err != nil {
			return err
		}
		w.placed++
	}
	return w.store.disk.syncFolder(w.key.path(segmentsFolder))
}

// discard removes all that was written.
func (w *segmentWriter) discard() {
	names := make([]string, 0, len(w.done)+1)
	if w.open != nil {
		w.open.Close()
		names = append(names, w.temporary(w.id))
	}
	for i, seg := range w.done {
		if i < w.placed {
			names = append(names, w.key.path(segmentName(seg.id)))
		} else {
			names = append(names, w.temporary(seg.id))
		}
	}
	for _, name := range names {
		// What cannot be removed now is removed by the next collection.
		if err := w.store.disk.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.store.options.Logger.Warn("a file of an abandoned generation is left over",
				"pod", w.key.String(), "generation", w.generation, "file", path.Base(name), "error", err)
		}
	}
	w.store.used.Add(-w.written)
	w.written = 0
}
