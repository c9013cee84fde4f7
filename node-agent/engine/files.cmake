# Every kind of open file, and what belongs to open files.
set(engine_file_sources
  epoll.cc
  eventfd.cc
  file_kinds.cc
  file_support.cc
  pidfd.cc
  pipe.cc
  refused.cc
  regular_file.cc
  signalfd.cc
  stdio.cc
  timerfd.cc)
