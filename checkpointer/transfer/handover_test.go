package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// TestHandover: an application's state comes in full, or its reader learns that it
// does not.
func TestHandover(t *testing.T) {
	a, b := newPair(t)
	state := storetest.Pages(7, 700)
	noRoom := errors.New("the application says: 503 not now")
	for name, tc := range map[string]struct {
		export transfer.Export
		fails  string
	}{
		"all of it": {export: func(_ context.Context, _ store.Key, _, _ string, into io.Writer) error {
			_, err := into.Write(state)
			return err
		}},
		"refused": {export: func(context.Context, store.Key, string, string, io.Writer) error { return noRoom }, fails: noRoom.Error()},
		"broken off": {export: func(_ context.Context, _ store.Key, _, _ string, into io.Writer) error {
			_, _ = into.Write(state[:2000000])
			return noRoom
		}, fails: "after 2000000 bytes"},
		"nothing to export": {fails: "hands over no state"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			transfer.WithExport(nil)(b.server)
			if tc.export != nil {
				transfer.WithExport(func(ctx context.Context, key store.Key, migration, asker string, into io.Writer) error {
					asked = append(asked, key.String(), migration, asker)
					return tc.export(ctx, key, migration, asker, into)
				})(b.server)
			}
			handover, err := a.client.Export(t.Context(), b.address, pod, "cart-0-3")
			check(t, err)
			defer handover.Close()
			got, err := io.ReadAll(handover)
			if tc.fails == "" && (err != nil || !bytes.Equal(got, state) || handover.Bytes() != int64(len(state))) {
				t.Errorf("%d of %d bytes came: %v", len(got), len(state), err)
			}
			if tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) {
				t.Errorf("the error is %v", err)
			}
			if want := []string{pod.String(), "cart-0-3", "client"}; tc.export != nil && strings.Join(asked, " ") != strings.Join(want, " ") {
				t.Errorf("asked for %q", asked)
			}
		})
	}
	transfer.WithExport(func(ctx context.Context, _ store.Key, _, _ string, into io.Writer) error {
		_, _ = into.Write(state[:1000])
		<-ctx.Done()
		return status.Error(codes.Canceled, "the node ends")
	})(b.server)
	ctx, cancel := context.WithCancel(t.Context())
	handover, err := a.client.Export(ctx, b.address, pod, "cart-0-3")
	check(t, err)
	defer handover.Close()
	if _, err := io.ReadFull(handover, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := handover.Read(make([]byte, 10)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after the connection's end: %d bytes, %v", n, err)
	}
}
