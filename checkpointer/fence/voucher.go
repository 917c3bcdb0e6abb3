package fence

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission/peers"
)

// voucher answers peers and the watcher from memory. A fencer that hangs answers
// too, and rightly: what it has not read, it could not read.
type voucher struct {
	vouching *Vouching
	metrics  *metrics
}

var _ peers.Answers = voucher{}

// Vouch implements peers.Answers.
func (v voucher) Vouch(node string) bool {
	vouches := v.vouching.Vouch(Now(), node)
	v.metrics.vouches.WithLabelValues(yesNo(vouches)).Inc()
	return vouches
}

// Promise implements peers.Answers.
func (v voucher) Promise(node string) (promised, readable bool) {
	now := Now()
	promised = v.vouching.Promise(now, node)
	v.metrics.promises.WithLabelValues(yesNo(promised)).Inc()
	return promised, promised || v.vouching.Readable(now)
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// listenAgain is how long to wait before a port is tried again that was taken, as by
// the fencer that this one replaces.
const listenAgain = time.Second

// serveVoucher answers at a port until ctx ends.
func (f *fencer) serveVoucher(ctx context.Context, port int) {
	answers := voucher{f.vouching, f.metrics}
	for ctx.Err() == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err == nil {
			err = peers.Serve(ctx, listener, f.neighbours.serverConfig, answers)
		}
		if err != nil && ctx.Err() == nil {
			f.log.Error("peers and the watcher are not answered; free the port or set another one", "port", port, "err", err)
		}
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
		}
	}
}
