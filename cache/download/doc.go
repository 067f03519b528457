// Package download fetches one blob from one origin once, for everyone who wants
// it meanwhile: one fetch, many readers.
//
// A download is keyed by origin and digest, and by repository where that is to
// prove possession itself (Key.Repo). Its bytes go into a growing file of the store, in blocks; workers fetch what the most urgent reader lacks, and every
// reader follows at its own pace. The package knows nothing of rights: an Asker
// stands for each principal that wants the blob, decides whether it may have what
// is there, and goes upstream as it.
//
// A Download has one state, and only move changes it (state.go). What a move
// gives back (room, the slot, the place in the table) is given back before
// anyone is woken: a client that tries again at once must not meet what it was
// just turned away by.
package download
