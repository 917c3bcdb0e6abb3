package transfer

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// piece is a part of a file on its way. Its first three fields are those of the
// file, and set in the first piece of each file only.
type piece struct {
	name string
	size int64
	// offset is how many bytes are left out, because the receiver has them.
	offset int64
	hash   []byte // of the bytes that are left out
	data   []byte
}

// sendFile sends one file of a store, from the given offset on, in pieces that
// fit in buf.
func sendFile(s *store.Store, key store.Key, f *peerv1.File, offset int64, hash, buf []byte, send func(piece) error) error {
	file, err := s.OpenFile(key, f.GetName())
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	next := piece{name: f.GetName(), size: f.GetSize(), offset: offset, hash: hash}
	for left := f.GetSize() - offset; left > 0; {
		next.data = buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(file, next.data); errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // not to be mistaken for the stream's end
		} else if err != nil {
			return err
		}
		if err := send(next); err != nil {
			return err
		}
		left -= int64(len(next.data))
		next = piece{}
	}
	return nil
}

// receiver puts pieces that arrive into a store.
type receiver struct {
	imp      *store.Import
	incoming *store.Incoming
	left     int64 // of the file that is arriving
	received int64
}

// piece takes the next piece of the file that is arriving, or the first one of
// the next file. It returns after the last piece of a file when the file is on
// stable storage.
func (r *receiver) piece(ctx context.Context, p piece) error {
	if p.name != "" {
		if err := r.begin(ctx, p); err != nil {
			return err
		}
	}
	if r.incoming == nil {
		return status.Error(codes.InvalidArgument, "a piece without a file")
	}
	n, err := r.incoming.Write(p.data)
	r.left -= int64(n)
	r.received += int64(n)
	if err != nil || r.left > 0 {
		return err
	}
	incoming := r.incoming
	r.incoming = nil
	return incoming.Commit(ctx)
}

func (r *receiver) begin(ctx context.Context, p piece) (err error) {
	if r.incoming != nil {
		return status.Errorf(codes.InvalidArgument, "%s begins %d bytes before the end of the file before it", p.name, r.left)
	}
	var incoming *store.Incoming
	if p.offset == 0 {
		incoming, err = r.imp.Create(p.name, p.size)
	} else {
		incoming, err = r.imp.Resume(ctx, p.name, p.size, p.offset, p.hash)
	}
	if err != nil {
		return err
	}
	r.incoming, r.left = incoming, p.size-p.offset
	return nil
}

// end returns an error unless the last file has arrived in full.
func (r *receiver) end() error {
	if r.incoming != nil {
		return status.Errorf(codes.InvalidArgument, "the stream ended %d bytes before its file", r.left)
	}
	return nil
}

// close gives up the file that is arriving, if there is one.
func (r *receiver) close() {
	if r.incoming != nil {
		r.incoming.Abort()
	}
	r.imp.Close()
}
