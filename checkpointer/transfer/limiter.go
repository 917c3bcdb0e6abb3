package transfer

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"
)

// Limiter bounds how fast a node sends copies of its generations, to all holders
// together. Recoveries are never limited. A nil Limiter sets no bound.
type Limiter struct {
	rate  *rate.Limiter
	piece int
}

// NewLimiter returns a Limiter for a number of bytes per second, or nil for 0.
func NewLimiter(bytesPerSecond int64) (*Limiter, error) {
	switch {
	case bytesPerSecond == 0:
		return nil, nil
	case bytesPerSecond < minRate:
		return nil, fmt.Errorf("limit copies to %d bytes per second: use at least %d, or 0 for no limit", bytesPerSecond, int64(minRate))
	}
	// A piece is short enough for several in each second, so that a holder does
	// not take a slow sender for one that is gone.
	piece := int(min(bytesPerSecond/4, pieceSize))
	return &Limiter{rate.NewLimiter(rate.Limit(bytesPerSecond), piece), piece}, nil
}

// minRate takes some 20 minutes for one segment; with less, no copy ends.
const minRate = 64 << 10

// Wait waits until that many bytes may be sent, or returns the error of ctx.
func (l *Limiter) Wait(ctx context.Context, bytes int) error {
	if l == nil {
		return ctx.Err()
	}
	for bytes > 0 {
		n := min(bytes, l.piece)
		if err := l.rate.WaitN(ctx, n); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			// The limiter does not wait at all when the deadline would pass.
			return fmt.Errorf("%w before the limit for copies allowed %d bytes more", context.DeadlineExceeded, n)
		}
		bytes -= n
	}
	return nil
}

// pieceSize is how much of a file is best sent at once.
func (l *Limiter) pieceSize() int {
	if l == nil {
		return pieceSize
	}
	return l.piece
}
