package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

var crashKey = Key{Namespace: "shop", PodUID: "pod"}

// noise returns 20 kB that do not compress: more than a segment of these tests.
func noise(seed byte) string {
	data := make([]byte, 20_000)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return string(data)
}

// stageOne writes a small staged generation that shares half of its content
// with every other.
func stageOne(t testing.TB, n int) (dir string, content map[string]string) {
	t.Helper()
	dir = t.TempDir()
	content = map[string]string{
		"shared": noise(0),
		"own":    noise(byte(n)),
	}
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, content
}

// crashMemory is the memory of generation n: one process, whose pages changed last
// at different times. Each generation leaves a little of every one before it in
// use, so that segments wear at once.
func crashMemory(n, base int64) []memory.Process {
	p := memory.Process{Container: "c", PID: 1, Pages: memory.Set{{Start: wearStart, End: wearStart + 32*pageSize}}}
	for page := range int64(32) {
		if base > 0 && crashVersion(page, n) == crashVersion(page, base) {
			continue
		}
		p.Fresh = append(p.Fresh, memory.Stretch{Start: wearStart + uint64(page)*pageSize, Data: crashPage(page, n)})
	}
	return []memory.Process{p}
}

func crashVersion(page, n int64) int64 { return min(n, page%16+1) }

func crashPage(page, n int64) []byte {
	data := make([]byte, pageSize)
	rand.NewChaCha8([32]byte{1, byte(page), byte(crashVersion(page, n))}).Read(data)
	return data
}

// checkContent reads the files of a generation, and its memory if it has some.
func checkContent(t testing.TB, s *Store, number int64, want map[string]string) error {
	dir := filepath.Join(t.TempDir(), "restored")
	if err := s.Materialize(t.Context(), crashKey, number, dir); err != nil {
		return err
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if string(got) != text {
			return fmt.Errorf("generation %d came back with other content", number)
		}
	}
	if err := checkCrashMemory(t, s, number); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func checkCrashMemory(t testing.TB, s *Store, number int64) error {
	r, err := s.OpenReader(t.Context(), crashKey, number, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	chunks := map[int]memory.Chunk{}
	var ids []int
	for _, c := range r.Memory("c") {
		ids, chunks[c.ID] = append(ids, c.ID), c
	}
	pages := 0
	err = r.Read(t.Context(), ids, func(id int, data []byte) error {
		for _, place := range chunks[id].Places {
			for offset := 0; offset < place.Length; offset += pageSize {
				page := int64(place.Address+uint64(offset)-wearStart) / pageSize
				if !bytes.Equal(data[place.Offset+offset:][:pageSize], crashPage(page, number)) {
					return fmt.Errorf("page %d of generation %d has other content", page, number)
				}
				pages++
			}
		}
		return nil
	})
	if err == nil && len(r.Processes()) > 0 && pages != 32 {
		err = fmt.Errorf("generation %d has %d pages", number, pages)
	}
	return err
}
