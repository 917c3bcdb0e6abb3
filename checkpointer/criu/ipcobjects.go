package criu

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// IPCObjects returns the System V objects that CRIU makes when it restores a
// container from the images in a folder.
func IPCObjects(images string) ([]client.IPCObject, error) {
	var objects []client.IPCObject
	for _, kind := range []string{client.SharedMemory, client.Semaphores, client.MessageQueues} {
		files, err := filepath.Glob(filepath.Join(images, "ipcns-"+kind+"-*.img"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			image, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			found, err := parseIPCObjects(kind, image)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			objects = append(objects, found...)
		}
	}
	return objects, nil
}

func parseIPCObjects(kind string, image []byte) ([]client.IPCObject, error) {
	if len(image) < imageHeader {
		return nil, io.ErrUnexpectedEOF
	}
	var objects []client.IPCObject
	for rest := image[imageHeader:]; len(rest) > 0; {
		raw, after, err := nextEntry(rest)
		if err != nil {
			return nil, err
		}
		var desc *ipc_desc.IpcDescEntry
		if desc, rest, err = readIPCEntry(kind, raw, after); err != nil {
			return nil, err
		}
		objects = append(objects, client.IPCObject{Kind: kind, ID: int32(desc.GetId()), Key: int32(desc.GetKey())})
	}
	return objects, nil
}

// readIPCEntry reads the entry of an object, and passes over its content, which
// stands behind it.
func readIPCEntry(kind string, raw, after []byte) (desc *ipc_desc.IpcDescEntry, rest []byte, err error) {
	switch kind {
	case client.SharedMemory:
		entry := new(ipc_shm.IpcShmEntry)
		if err := proto.Unmarshal(raw, entry); err != nil {
			return nil, nil, err
		}
		if !entry.GetInPagemaps() {
			after, err = skip(after, entry.GetSize(), 4)
		}
		return entry.GetDesc(), after, err
	case client.Semaphores:
		entry := new(ipc_sem.IpcSemEntry)
		if err := proto.Unmarshal(raw, entry); err != nil {
			return nil, nil, err
		}
		after, err = skip(after, 2*uint64(entry.GetNsems()), 8)
		return entry.GetDesc(), after, err
	}
	entry := new(ipc_msg.IpcMsgEntry)
	if err := proto.Unmarshal(raw, entry); err != nil {
		return nil, nil, err
	}
	for range entry.GetQnum() {
		if raw, after, err = nextEntry(after); err != nil {
			return nil, nil, err
		}
		message := new(ipc_msg.IpcMsg)
		if err := proto.Unmarshal(raw, message); err != nil {
			return nil, nil, err
		}
		if after, err = skip(after, uint64(message.GetMsize()), 8); err != nil {
			return nil, nil, err
		}
	}
	return entry.GetDesc(), after, nil
}

// skip passes over content of an image, which is filled up to a multiple of align bytes.
func skip(image []byte, size, align uint64) ([]byte, error) {
	if size > uint64(len(image)) { // before it is rounded, so that nothing overflows
		return nil, io.ErrUnexpectedEOF
	}
	size = (size + align - 1) / align * align
	if size > uint64(len(image)) {
		return nil, io.ErrUnexpectedEOF
	}
	return image[size:], nil
}
