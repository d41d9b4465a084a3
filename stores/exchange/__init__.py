"""Exchange feature files with other tools: import theirs, export to their layouts, compare with them."""

from .comparing import Comparison, compare, open_other
from .cra_dictionaries import TARGET as DICTIONARIES
from .cra_dictionaries import DictionaryExport, export_dictionaries
from .exporting import TARGETS, export, read_keys
from .files import open_files
from .importing import Import, import_files
from .rows import Export, ExportOptions, StoreRows, file_names

__all__ = [
    "DICTIONARIES",
    "TARGETS",
    "Comparison",
    "DictionaryExport",
    "Export",
    "ExportOptions",
    "Import",
    "StoreRows",
    "compare",
    "export",
    "export_dictionaries",
    "file_names",
    "import_files",
    "open_files",
    "open_other",
    "read_keys",
]
