// Package migrate carries out what was decided: it writes fence records, records
// each recovery as a Migration, removes the lost pods from the API, creates the
// successors of bare ones, and follows every successor until it can say
// honestly what became of it.
//
// Everything it needs to go on is in the API. A watcher that takes over reads it
// there and continues.
package migrate
