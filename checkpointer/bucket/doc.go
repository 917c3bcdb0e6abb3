// Package bucket keeps copies of generations in a bucket of an S3-compatible
// object store, beside or in place of those on other nodes.
//
// The objects are the store's files as they are, encrypted already:
//
//	<prefix>/<namespace>/<podUID>/segments/<id>.seg
//	<prefix>/<namespace>/<podUID>/manifests/<number>.man
//
// A generation is in the bucket from the moment its manifest is: that is
// uploaded last, after a look at whether each of its segments is there with its full
// size. It is removed the other way round: the manifest first, and segments
// only when no manifest refers to them any more.
//
// A manifest's metadata says in clear what the generation is, so that it can be
// listed without being read. That is a hint, which whoever writes to the bucket
// could forge; what is restored is authenticated by the manifest itself.
//
// Nothing else may write below the prefix, and no rule of the bucket may expire
// objects there: old segments are parts of new generations. A rule that aborts
// incomplete multipart uploads after some days is welcome.
package bucket
