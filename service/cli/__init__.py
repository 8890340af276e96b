"""The commands of ``pixeldp``. No module here imports anything heavy at its top."""
