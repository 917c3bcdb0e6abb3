package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
)

// Options bound what a store takes. The zero value means the defaults.
type Options struct {
	// MaxBytes is the most that all files of the store may take; 0 means no limit.
	MaxBytes int64
	// SegmentBytes is the size at which a new segment is begun; 0 means 64 MiB.
	SegmentBytes int64
	// Workers is how many chunks are worked on at once; 0 means one for each processor.
	Workers int
	// Logger reports damaged manifests; nil means slog.Default().
	Logger *slog.Logger
}

// Store keeps the generations of many pods. Its methods may be called from
// several goroutines; those that change one pod wait for each other.
type Store struct {
	disk    *disk
	keys    KeySource
	options Options
	lock    *os.File     // nil when it is only read
	used    atomic.Int64 // bytes of all files

	mu   sync.Mutex
	pods map[Key]*pod
}

// pod is what the store knows about one pod beside its files.
type pod struct {
	// writing is held by whoever adds a generation or removes files.
	writing sync.Mutex

	mu        sync.Mutex
	readers   map[int64]int // how many read each generation
	imports   int           // how many imports are open
	summaries map[int64]cachedSummary
	// suspects are segments with their full size in which damage was seen.
	suspects map[fileID]bool
	// reported are damaged generations that the log has.
	reported map[int64]bool
}

// cachedSummary spares List the decryption of manifests that it has seen.
type cachedSummary struct {
	size     int64
	modified time.Time
	manifest *manifest // without its body
}

// Open opens the store in a folder, which is made when it is not there.
// One process at a time can have it open.
func Open(dir string, keys KeySource, options Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := lockStore(root)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := newStore(root, keys, options)
	s.lock = lock
	if err := s.tidy(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

// OpenReadOnly opens a store that another process may have open, to be read and
// checked: files may go at any moment. What would change it returns ErrReadOnly.
func OpenReadOnly(dir string, keys KeySource, options Options) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := newStore(root, keys, options)
	s.disk.readOnly = true
	return s, nil
}

func newStore(root *os.Root, keys KeySource, options Options) *Store {
	if options.SegmentBytes == 0 {
		options.SegmentBytes = 64 << 20
	}
	if options.Workers == 0 {
		options.Workers = runtime.GOMAXPROCS(0)
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	return &Store{disk: &disk{root: root}, keys: keys, options: options, pods: map[Key]*pod{}}
}

func lockStore(root *os.Root) (*os.File, error) {
	lock, err := root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another process has it open: %w", err)
	}
	return lock, nil
}

// Close lets another process open the store. Nothing may use it any more.
func (s *Store) Close() error {
	err := s.disk.root.Close()
	if s.lock != nil {
		err = errors.Join(s.lock.Close(), err)
	}
	return err
}

// tidy removes what an interrupted process was writing, and counts the rest.
func (s *Store) tidy() error {
	return fs.WalkDir(s.disk.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if strings.HasSuffix(name, temporarySuffix) {
			return s.disk.remove(name)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if isStalePartial(info) {
			return s.disk.remove(name)
		}
		s.used.Add(info.Size())
		return nil
	})
}

// Used returns how many bytes the store's files take; 0 when it is only read.
func (s *Store) Used() int64 { return s.used.Load() }

func (s *Store) pod(key Key) *pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[key]
	if p == nil {
		p = &pod{readers: map[int64]int{}, summaries: map[int64]cachedSummary{}, suspects: map[fileID]bool{}, reported: map[int64]bool{}}
		s.pods[key] = p
	}
	return p
}

func (k Key) folder() string { return k.Namespace + "/" + k.PodUID }

func (k Key) path(name string) string { return path.Join(k.folder(), name) }

// Pods lists the pods that the store has files of, sorted.
func (s *Store) Pods() ([]Key, error) {
	var keys []Key
	namespaces, err := s.disk.names(".")
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for _, namespace := range namespaces {
		if info, err := s.disk.root.Lstat(namespace); err != nil || !info.IsDir() {
			continue
		}
		uids, err := s.disk.names(namespace)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for _, uid := range uids {
			if key := (Key{namespace, uid}); key.Validate() == nil {
				keys = append(keys, key)
			}
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
	return keys, nil
}

// listTimeout bounds how long List waits for a namespace's key.
const listTimeout = 5 * time.Second

// List returns the pod's generations that the store holds in full, newest
// first. A damaged generation is left out, and reported to the log once.
func (s *Store) List(key Key) ([]Generation, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	for {
		list, complete, err := s.list(ctx, key)
		if err == nil && !complete {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("list generations of %s: %w", key, err)
		}
		if complete {
			return list, nil
		}
	}
}

// list is List at one moment. It is not complete when a generation was removed
// meanwhile: newer ones may have come that it has not seen.
func (s *Store) list(ctx context.Context, key Key) (list []Generation, complete bool, err error) {
	numbers, err := s.numbers(key)
	if err != nil {
		return nil, false, err
	}
	for _, number := range numbers {
		m, err := s.summary(ctx, key, number)
		var damaged *Damaged
		switch {
		case err == nil:
			list = append(list, m.generation)
		case errors.Is(err, ErrNotFound):
			return nil, false, nil
		case errors.As(err, &damaged):
			if !s.holds(key, number) {
				return nil, false, nil // its segments went after it
			}
			if s.pod(key).report(number) {
				s.options.Logger.Warn("a damaged generation is left out of the list",
					"pod", key.String(), "generation", number, "file", damaged.File, "detail", damaged.Detail)
			}
		default:
			return nil, false, err
		}
	}
	return list, true, nil
}

// numbers lists the numbers of the pod's manifests, highest first.
func (s *Store) numbers(key Key) ([]int64, error) {
	names, err := s.disk.names(key.path(manifestsFolder))
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, name := range names {
		if number, ok := parseManifestName(manifestsFolder + "/" + name); ok {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, nil
}

// latest returns the highest number that the pod ever used; 0 when none is known.
func (s *Store) latest(key Key) (int64, error) {
	numbers, err := s.numbers(key)
	if err != nil {
		return 0, err
	}
	var highest int64
	if len(numbers) > 0 {
		highest = numbers[0]
	}
	text, err := s.disk.read(key.path(latestName), 32)
	if err == nil {
		// An unreadable pointer is as good as none: the manifests are what counts.
		if number, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && number <= maxGeneration {
			highest = max(highest, number)
		}
	}
	return highest, nil
}

// Next returns the number of the pod's next generation: one more than the
// highest that was ever used, also by generations that are damaged or gone.
func (s *Store) Next(key Key) (int64, error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	latest, err := s.latest(key)
	if err != nil {
		return 0, fmt.Errorf("next generation of %s: %w", key, err)
	}
	return latest + 1, nil
}

// pointTo has the pod's latest pointer remember a number. While the manifest of that number
// is there it need not: a generation that is stored waits for one file less.
func (s *Store) pointTo(key Key, number int64) error {
	text := strconv.FormatInt(number, 10) + "\n"
	old, err := s.disk.size(key.path(latestName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.disk.writeDurably(key.path(latestName), []byte(text)); err != nil {
		return err
	}
	s.used.Add(int64(len(text)) - old)
	return nil
}

// Files lists the files that a generation needs, the manifest last.
func (s *Store) Files(key Key, number int64) ([]*peerv1.File, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	m, err := s.summary(ctx, key, number)
	if err != nil {
		return nil, fmt.Errorf("files of %s: %w", key, err)
	}
	var files []*peerv1.File
	for _, seg := range m.segments {
		files = append(files, &peerv1.File{Name: segmentName(seg.id), Size: seg.size})
	}
	size, err := s.disk.size(key.path(manifestName(number)))
	if err != nil {
		return nil, fmt.Errorf("files of %s: %w", key, err)
	}
	return append(files, &peerv1.File{Name: manifestName(number), Size: size, Id: m.id[:]}), nil
}

// OpenFile opens one of the files that Files lists, for reading.
func (s *Store) OpenFile(key Key, name string) (*os.File, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	if _, ok := parseSegmentName(name); !ok {
		if _, ok := parseManifestName(name); !ok {
			return nil, errName(name)
		}
	}
	return s.disk.root.Open(key.path(name))
}

// Hold keeps a generation's files in place until release is called.
func (s *Store) Hold(key Key, number int64) (release func()) {
	p := s.pod(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers[number]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.readers[number]--; p.readers[number] == 0 {
			delete(p.readers, number)
		}
	})
}

func (p *pod) suspect(id fileID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.suspects[id]
}

func (p *pod) setSuspect(id fileID, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if is {
		p.suspects[id] = true
	} else {
		delete(p.suspects, id)
	}
}

// report is whether the log does not have a damaged generation yet.
func (p *pod) report(number int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.reported[number]
	p.reported[number] = true
	return !was
}

// Dir returns the store's folder.
func (s *Store) Dir() string { return filepath.Clean(s.disk.root.Name()) }
